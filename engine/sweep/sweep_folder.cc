#include "engine/sweep/sweep_folder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <sstream>

#include "configs/json_text.h"
#include "configs/stages.h"
#include "configs/text.h"
#include "data/corpus.h"
#include "data/files.h"
#include "engine/report/report.h"
#include "engine/report/result.h"
#include "engine/run_folder.h"
#include "engine/sweep/shared_files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

// A document's loss is kept to a ten-thousandth of a nat: what is below it is rounding of floats,
// and half of the text.
constexpr double kNatsKept = 1e4;

using Texts = std::map<std::string, std::string>;

// A finished cell's folder is damaged: what to do.
absl::Status Spoilt(const CellFolder& folder, const absl::Status& why) {
  return absl::DataLossError(std::string(why.message()) + "; it is no record of a finished cell. " +
                             "Move " + folder.dir + " away to have the cell run again");
}

// The columns of a finished cell's record.
absl::StatusOr<Texts> DoneColumns(const CellFolder& folder, const std::string& key) {
  absl::StatusOr<CellResult> cell = ReadRecord(folder, key);
  if (cell.ok()) return std::move(cell->columns);
  return Spoilt(folder, cell.status());
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
std::string WhyFailed(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFileBytes(path);
  if (!text.ok()) return std::string(text.status().message());
  const Texts said = ScalarsOf(*text);
  const auto why = said.find("why");
  return why == said.end() ? path + ": does not say why the attempt failed" : why->second;
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

bool IsThere(const std::string& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
}

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
    const absl::StatusOr<Texts> columns = DoneColumns(folder, cell.key);
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
  if (state.failures > 0) state.reason = WhyFailed(folder.failed(state.failures));
  return state;
}

absl::Status CheckSweepFolder(const SweepConfig& sweep) {
  if (IsThere(sweep.folder + "/cells")) return absl::OkStatus();
  for (const char* name : {"results.jsonl", "results.csv", "fit.json", "report.html", "fit.txt"}) {
    const std::string path = sweep.folder + "/" + name;
    if (!IsThere(path)) continue;
    return absl::FailedPreconditionError(path + ": is there already, and no sweep wrote it; a " +
                                         "sweep would put its own in its place. Move it " +
                                         "elsewhere, or give another folder");
  }
  return absl::OkStatus();
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

absl::StatusOr<CellResult> ReadRecord(const CellFolder& folder, const std::string& key) {
  ASSIGN_OR_RETURN(CellResult cell, ReadCell(folder.done()));
  for (const auto& [name, wanted] :
       {std::pair<std::string, std::string>{"key", key}, {"documents", DocumentsPath(key)}}) {
    const auto found = cell.columns.find(name);
    // Documents may have been left out.
    const std::string text = found == cell.columns.end() ? "" : found->second;
    if (text == wanted || (text.empty() && name == "documents")) continue;
    return absl::DataLossError(folder.done() + ": " + name + ": is " + JsonString(text) + ", and " +
                               JsonString(wanted) + " in the record of this cell");
  }
  return cell;
}

absl::Status CheckFinished(const SweepConfig& sweep, const SweepCell& cell) {
  const CellFolder folder = FolderOf(sweep, cell);
  if (!IsThere(folder.done())) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Texts columns, DoneColumns(folder, cell.key));
  if (columns.count("documents") == 0) return absl::OkStatus();
  const absl::Status documents = ReadDocuments(folder.documents()).status();
  return documents.ok() ? documents : Spoilt(folder, documents);
}

absl::StatusOr<std::optional<std::string>> RecordOf(const SweepConfig& sweep,
                                                    const SweepCell& cell) {
  const CellFolder folder = FolderOf(sweep, cell);
  if (!IsThere(folder.done())) return std::nullopt;
  RETURN_IF_ERROR(DoneColumns(folder, cell.key).status());
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
