#include "engine/sweep/sweep_folder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "configs/json_text.h"
#include "configs/load.h"
#include "configs/stages.h"
#include "configs/text.h"
#include "data/corpus.h"
#include "data/files.h"
#include "engine/report/report.h"
#include "engine/report/result.h"
#include "engine/run_folder.h"
#include "engine/sweep/cell_key.h"
#include "engine/sweep/shared_files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr double kSameRho = 1e-9;

// Columns of every record beside those of the axes (CellRecord).
constexpr const char* kColumns[] = {"key",
                                    "held_out",
                                    "validation_loss",
                                    "validation_bits_per_byte",
                                    "train_loss",
                                    "parameters_total",
                                    "parameters_active",
                                    "parameters_tables",
                                    "flops_per_token",
                                    "tokens",
                                    "unique_tokens",
                                    "epochs",
                                    "tokens_per_active",
                                    "steps",
                                    "seconds",
                                    "tokens_per_second",
                                    "peak_memory_bytes",
                                    "failures",
                                    "documents"};

using Texts = std::map<std::string, std::string>;

// A finished cell's folder is damaged: what to do.
absl::Status Spoilt(const CellFolder& folder, const absl::Status& why) {
  return absl::DataLossError(std::string(why.message()) + "; it is no record of a finished cell. " +
                             "Move " + folder.dir + " away to have the cell run again");
}

// The columns of a finished cell's record.
absl::StatusOr<Texts> DoneColumns(const CellFolder& folder, const SweepCell& cell) {
  absl::StatusOr<CellResult> record = ReadRecord(folder, cell);
  if (record.ok()) return std::move(record->columns);
  return Spoilt(folder, record.status());
}

std::string DocumentsPath(const std::string& key) { return "cells/" + key + "/documents.json"; }

double Column(const Texts& columns, const std::string& name) {
  const auto found = columns.find(name);
  if (found == columns.end()) return 0.0;
  return ParseNumber(found->second).value_or(0.0);
}

int64_t Failures(const CellFolder& folder) {
  int64_t count = 0;
  while (IsThere(folder.failed(count + 1))) ++count;
  return count;
}

// What the file of a failed attempt says, or that it says nothing.
void TakeFailure(const SweepConfig& sweep, const std::string& path, CellState& state) {
  const absl::StatusOr<std::string> text = ReadFileBytes(path);
  if (!text.ok()) {
    state.reason = std::string(text.status().message());
    return;
  }
  Texts said = ScalarsOf(*text);
  state.reason =
      said.count("why") == 0 ? path + ": does not say why the attempt failed" : said["why"];
  state.hopeless = static_cast<double>(sweep.run.attempts) <= Column(said, "hopeless_of");
}

// What differs between two texts of CellText: the first line of each that the other has not.
std::string DifferenceOf(const std::string& wanted, const std::string& trained) {
  const auto missing = [](const std::string& lines, const std::string& of) {
    std::istringstream in(lines);
    for (std::string line; std::getline(in, line);) {
      if (("\n" + of).find("\n" + line + "\n") == std::string::npos) return line;
    }
    return std::string();
  };
  const std::string has = missing(trained, wanted), lacks = missing(wanted, trained);
  return "the run has " + (has.empty() ? "nothing more" : has) + ", the cell " +
         (lacks.empty() ? "nothing more" : lacks);
}

// Tokens of the training corpora, each once.
double UniqueTokens(const RunConfig& config) {
  double tokens = 0.0;
  for (const std::string& path : config.data.train) {
    if (const auto corpus = Corpus::Open(path); corpus.ok())
      tokens += static_cast<double>((*corpus)->tokens());
  }
  return tokens;
}

// A scalar of an axis as JSON: a number where it is one.
std::string AxisJson(const std::string& text) {
  const auto number = ParseNumber(text);
  return number.has_value() ? JsonNumber(*number) : JsonString(text);
}

using CellColumns = std::vector<std::pair<std::string, std::string>>;

// What the axes of this sweep say of a cell, as columns: JSON by name.
CellColumns AxisColumns(const SweepCell& cell) {
  CellColumns columns = {{"rho", cell.rho ? JsonNumber(*cell.rho) : "null"},
                         {"seed", std::to_string(cell.seed)}};
  if (cell.budget > 0.0) columns.emplace_back("budget", JsonNumber(cell.budget));
  if (cell.table) columns.emplace_back("table_rows", JsonNumber(*cell.table));
  for (const auto& [name, value] : cell.axes) {
    if (name != "seed" && name != "budget" && name != "table")
      columns.emplace_back(name == "rho" ? "asked_rho" : name, AxisJson(value));
  }
  return columns;
}

// Mean over the last twentieth of the steps: one batch alone says little.
double LateTrainLoss(const RunFolder& run) {
  const auto series = ReadSeries(run.metrics(), "loss");
  if (!series.ok() || series->empty()) return std::numeric_limits<double>::quiet_NaN();
  const size_t count = std::max<size_t>(1, series->size() / 20);
  double sum = 0.0;
  for (size_t i = series->size() - count; i < series->size(); ++i) sum += (*series)[i].second;
  return sum / static_cast<double>(count);
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string CsvText(const std::vector<CellResult>& cells) {
  std::vector<std::string> head = {"key", "rho", "seed", "validation_loss"};
  for (const CellResult& cell : cells) {
    for (const auto& [name, value] : cell.columns) {
      if (std::find(head.begin(), head.end(), name) == head.end()) head.push_back(name);
    }
  }
  std::string out = Join(head, ",") + "\n";
  for (const CellResult& cell : cells) {
    std::vector<std::string> fields;
    for (const std::string& name : head) {
      const auto found = cell.columns.find(name);
      fields.push_back(found == cell.columns.end() ? "" : CsvField(found->second));
    }
    out += Join(fields, ",") + "\n";
  }
  return out;
}

}  // namespace

absl::StatusOr<bool> LookFor(const std::string& path) {
  std::error_code error;
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::none) return FileError(path, "look at", error.value());
  return type != fs::file_type::not_found;
}

bool IsThere(const std::string& path) { return LookFor(path).value_or(false); }

CellFolder FolderOf(const SweepConfig& sweep, const SweepCell& cell) {
  return {sweep.folder + "/cells/" + cell.key};
}

CellState StateOf(const SweepConfig& sweep, const SweepCell& cell) {
  const CellFolder folder = FolderOf(sweep, cell);
  CellState state;
  state.failures = Failures(folder);
  state.lease = ReadLease(folder.dir);
  state.steps = static_cast<double>(TotalSteps(cell.config));
  if (IsThere(folder.done())) {
    state.done = true;
    state.step = state.steps;
    const absl::StatusOr<Texts> columns = DoneColumns(folder, cell);
    if (!columns.ok()) {
      state.validation_loss = std::numeric_limits<double>::quiet_NaN();
      state.reason = std::string(columns.status().message());
      return state;
    }
    state.validation_loss = Column(*columns, "validation_loss");
    state.seconds = Column(*columns, "seconds") / std::max(1.0, state.steps);
    return state;
  }
  const auto series = ReadSeries(RunFolder{folder.run()}.metrics(), "seconds");
  if (series.ok() && !series->empty()) {
    state.step = series->back().first;
    state.seconds = series->back().second;
  }
  if (state.failures > 0) TakeFailure(sweep, folder.failed(state.failures), state);
  return state;
}

bool HasFailed(const SweepConfig& sweep, const CellState& state) {
  return !state.done && (state.hopeless || state.failures >= sweep.run.attempts);
}

absl::Status CheckSweepFolder(const SweepConfig& sweep, const SweepGrid& grid) {
  ASSIGN_OR_RETURN(const bool has_cells, LookFor(sweep.folder + "/cells"));
  for (const SweepCell& cell : grid.cells) {
    if (!has_cells) break;
    const CellFolder folder = FolderOf(sweep, cell);
    RETURN_IF_ERROR(LookFor(folder.done()).status());
    const absl::Status listed = ListFolder(folder.dir).status();  // its leases
    if (!listed.ok() && !absl::IsNotFound(listed)) return listed;
  }
  if (has_cells) return absl::OkStatus();
  for (const char* name : {"results.jsonl", "results.csv", "fit.json", "report.html", "fit.txt"}) {
    const std::string path = sweep.folder + "/" + name;
    if (!IsThere(path)) continue;
    return absl::FailedPreconditionError(path + ": is there already, and no sweep wrote it; a " +
                                         "sweep would put its own in its place. Move it " +
                                         "elsewhere, or give another folder");
  }
  return absl::OkStatus();
}

absl::Status CheckFitColumns(const SweepConfig& sweep, const SweepGrid& grid) {
  std::set<std::string> known(std::begin(kColumns), std::end(kColumns));
  for (const SweepCell& cell : grid.cells) {
    for (const auto& [name, text] : AxisColumns(cell)) known.insert(name);
    for (const HeldOutConfig& set : cell.config.evaluate.sets) known.insert("loss." + set.name);
    if (!cell.solved) continue;
    known.insert("residual_total");
    known.insert("residual_flops");
  }
  return CheckColumns(sweep.fit, known, "a cell of this sweep");
}

absl::Status KeepSettings(const SweepConfig& sweep) {
  std::error_code error;
  fs::create_directories(sweep.folder + "/cells", error);
  if (error) return FileError(sweep.folder, "make the folder", error.value());
  const auto kept = CreateExclusively(sweep.folder + "/fit.txt", FitSectionText(sweep.fit));
  RETURN_IF_ERROR(kept.status());
  return CreateExclusively(sweep.folder + "/sweep.yaml", sweep.text).status();
}

std::vector<std::string> ChangedSettings(const SweepConfig& sweep) {
  const absl::StatusOr<std::string> kept = ReadFileBytes(sweep.folder + "/fit.txt");
  if (absl::IsNotFound(kept.status())) return {};
  if (!kept.ok()) return {"not known: " + std::string(kept.status().message())};
  const auto parse = [](const std::string& text) {
    std::map<std::string, std::string> values;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) values[line.substr(0, colon)] = line.substr(colon + 2);
    }
    return values;
  };
  std::map<std::string, std::string> before = parse(*kept), now = parse(FitSectionText(sweep.fit));
  for (const auto& [key, value] : before) now.try_emplace(key, "(absent)");
  std::vector<std::string> changed;
  for (const auto& [key, value] : now) {
    const auto found = before.find(key);
    const std::string old = found == before.end() ? "(absent)" : found->second;
    if (old != value) changed.push_back("fit." + key + ": " + old + " -> " + value);
  }
  return changed;
}

absl::Status CheckTrained(const SweepConfig& sweep, const SweepCell& cell) {
  const RunFolder run{FolderOf(sweep, cell).run()};
  const absl::StatusOr<std::string> text = ReadFileBytes(run.config());
  if (!text.ok()) return absl::DataLossError(text.status().message());
  ASSIGN_OR_RETURN(const RunConfig config, ParseConfig(*text, run.config()));
  ASSIGN_OR_RETURN(const std::string trained, CellText(config));
  ASSIGN_OR_RETURN(const std::string wanted, CellText(cell.config));
  const std::string advice = "; run.launch must train {config} as it is";
  if (trained != wanted) {
    return absl::FailedPreconditionError(
        run.config() +
        ": another run than this cell's was trained: " + DifferenceOf(wanted, trained) + advice);
  }
  const absl::StatusOr<StoredResult> result = ReadResult(run.result());
  if (!result.ok()) return absl::DataLossError(result.status().message());
  if (result->steps == TotalSteps(cell.config)) return absl::OkStatus();
  return absl::FailedPreconditionError(run.result() + ": " + std::to_string(result->steps) +
                                       " steps were trained, and the cell has " +
                                       std::to_string(TotalSteps(cell.config)) + advice);
}

absl::StatusOr<std::string> CellRecord(const SweepConfig& sweep, const SweepCell& cell,
                                       int64_t failures) {
  const CellFolder folder = FolderOf(sweep, cell);
  const RunFolder run{folder.run()};
  const absl::StatusOr<StoredResult> result = ReadResult(run.result());
  if (!result.ok()) return absl::DataLossError(result.status().message());
  if (std::isnan(result->validation_loss)) {
    return absl::DataLossError(run.result() + ": a finished run leaves a validation_loss here; " +
                               "has the run a held-out set (evaluate.sets)?");
  }
  JsonObject json;
  json.Add("key", cell.key);
  std::map<std::string, std::string> axes;
  for (const auto& [name, text] : AxisColumns(cell)) axes[name] = text;
  json.AddRaw("rho", axes["rho"]).AddRaw("seed", axes["seed"]);
  json.Add("held_out", cell.config.evaluate.sets.front().name)
      .Add("validation_loss", result->validation_loss)
      .Add("validation_bits_per_byte", result->validation_bits_per_byte)
      .Add("train_loss", LateTrainLoss(run));
  for (const auto& [name, loss] : result->set_losses) json.Add("loss." + name, loss);
  for (const auto& [name, text] : AxisColumns(cell)) {
    if (name != "rho" && name != "seed") json.AddRaw(name, text);
  }
  json.Add("parameters_total", cell.counts.total_without_vocab())
      .Add("parameters_active", cell.counts.active())
      .Add("parameters_tables", cell.counts.tables)
      .Add("flops_per_token", cell.flops_per_token);
  if (cell.solved) {
    json.Add("residual_total", cell.residual.total_share)
        .Add("residual_flops", cell.residual.flops_share);
  }
  const double unique = UniqueTokens(cell.config);
  json.Add("tokens", cell.tokens)
      .Add("unique_tokens", unique)
      .Add("epochs", unique > 0.0 ? cell.tokens / unique : 0.0)
      .Add("tokens_per_active", cell.tokens / static_cast<double>(cell.counts.active()))
      .Add("steps", result->steps)
      .Add("seconds", result->seconds)
      .Add("tokens_per_second", result->tokens_per_second)
      .Add("peak_memory_bytes", result->peak_memory)
      .Add("failures", failures)
      .Add("documents", DocumentsPath(cell.key));
  return json.Text();
}

absl::StatusOr<CellResult> ReadRecord(const CellFolder& folder, const SweepCell& cell) {
  ASSIGN_OR_RETURN(CellResult record, ReadCell(folder.done()));
  const auto fault = [&](const std::string& name, const std::string& is,
                         const std::string& wanted) {
    return absl::DataLossError(folder.done() + ": " + name + ": is " + is + ", and " + wanted +
                               " in the record of this cell");
  };
  for (const auto& [name, wanted] : {std::pair<std::string, std::string>{"key", cell.key},
                                     {"documents", DocumentsPath(cell.key)}}) {
    const auto found = record.columns.find(name);
    // Documents may have been left out.
    const std::string text = found == record.columns.end() ? "" : found->second;
    if (text == wanted || (text.empty() && name == "documents")) continue;
    return fault(name, JsonString(text), JsonString(wanted));
  }
  // It may have been run for a sweep without rho.
  if (cell.rho && std::fabs(record.rho - *cell.rho) > kSameRho)
    return fault("rho", JsonNumber(record.rho), JsonNumber(*cell.rho));
  if (record.columns.count("seed") > 0 && record.seed != cell.seed)
    return fault("seed", std::to_string(record.seed), std::to_string(cell.seed));
  return record;
}

absl::Status CheckDocuments(const CellFolder& folder, const CellResult& record) {
  if (record.columns.count("documents") == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Documents documents, ReadDocuments(folder.documents()));
  const absl::Status mean = CheckMean(record, documents);
  if (mean.ok()) return mean;
  return absl::DataLossError(folder.documents() + ": " + std::string(mean.message()));
}

absl::Status CheckFinished(const SweepConfig& sweep, const SweepCell& cell) {
  const CellFolder folder = FolderOf(sweep, cell);
  if (!IsThere(folder.done())) return absl::OkStatus();
  const absl::StatusOr<CellResult> record = ReadRecord(folder, cell);
  const absl::Status sound = record.ok() ? CheckDocuments(folder, *record) : record.status();
  return sound.ok() ? sound : Spoilt(folder, sound);
}

absl::StatusOr<std::optional<std::string>> RecordOf(const SweepConfig& sweep,
                                                    const SweepCell& cell) {
  const CellFolder folder = FolderOf(sweep, cell);
  if (!IsThere(folder.done())) return std::nullopt;
  RETURN_IF_ERROR(DoneColumns(folder, cell).status());
  ASSIGN_OR_RETURN(const std::string record, ReadFileBytes(folder.done()));
  return WithColumns(record, AxisColumns(cell));
}

absl::Status KeepDocuments(const SweepConfig& sweep, const SweepCell& cell) {
  const CellFolder folder = FolderOf(sweep, cell);
  const std::string path = RunFolder{folder.run()}.documents();
  absl::StatusOr<Documents> documents = ReadDocuments(path);
  if (!documents.ok()) {
    return absl::DataLossError(
        "ended well but left no losses by document; does run.launch train "
        "{config} to its end? " +
        std::string(documents.status().message()));
  }
  for (DocumentScore& document : *documents)
    document.nats = std::round(document.nats * kNatsKept) / kNatsKept;
  return ReplaceFile(folder.documents(), DocumentsJson(*documents) + "\n");
}

absl::StatusOr<int64_t> WriteResults(const SweepConfig& sweep, const SweepGrid& grid) {
  std::string lines;
  int64_t count = 0;
  for (const SweepCell& cell : grid.cells) {
    ASSIGN_OR_RETURN(const std::optional<std::string> record, RecordOf(sweep, cell));
    if (!record.has_value()) continue;
    lines += *record;
    ++count;
  }
  if (count == 0) return 0;
  const std::string path = sweep.folder + "/results.jsonl";
  RETURN_IF_ERROR(ReplaceFile(path, lines));
  ASSIGN_OR_RETURN(const CellTable table, ReadCells(path, /*with_documents=*/false));
  RETURN_IF_ERROR(ReplaceFile(sweep.folder + "/results.csv", CsvText(table.cells)));
  return count;
}

int64_t OtherCells(const SweepConfig& sweep, const SweepGrid& grid) {
  int64_t others = 0;
  const auto entries = ListFolder(sweep.folder + "/cells");
  if (!entries.ok()) return 0;  // nothing was run
  for (const fs::directory_entry& entry : *entries) {
    const std::string key = entry.path().filename().string();
    const bool ours = std::any_of(grid.cells.begin(), grid.cells.end(),
                                  [&](const SweepCell& cell) { return cell.key == key; });
    others += !ours && IsThere(CellFolder{entry.path().string()}.done());
  }
  return others;
}

}  // namespace mneme
