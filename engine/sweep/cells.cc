#include "engine/sweep/cells.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <sstream>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "configs/text.h"
#include "data/files.h"
#include "data/json_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr double kLargestSeed = 9007199254740992.0;  // 2^53: whole numbers are exact up to here
constexpr double kMostNats = 1e100;                  // of a document, so that sums are finite
constexpr double kSumError = 1e-9;  // of a mean, as a share: floats added in another order
constexpr char kByteOrderMark[] = "\xEF\xBB\xBF";  // what some editors put before UTF-8
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

absl::Status LineError(const std::string& path, size_t line, const std::string& why) {
  return absl::InvalidArgumentError(path + ":" + std::to_string(line) + ": " + why);
}

// A scalar as the text of a column; nothing for lists, objects and null.
std::optional<std::string> ScalarText(const Json& value) {
  if (value.text() != nullptr) return *value.text();
  if (value.truth() != nullptr || value.number().has_value()) return JsonText(value);
  return std::nullopt;
}

std::map<std::string, std::string> ScalarsOf(const Json& json) {
  std::map<std::string, std::string> scalars;
  if (json.object() == nullptr) return scalars;
  for (const auto& [name, value] : *json.object()) {
    if (const auto text = ScalarText(value)) scalars[name] = *text;
  }
  return scalars;
}

// False where they are no count and no loss.
bool TakeDocument(const Json& tokens, const Json& nats, Documents& documents) {
  if (tokens.integer() == nullptr || *tokens.integer() < 0 || !nats.number().has_value() ||
      std::fabs(*nats.number()) > kMostNats) {
    return false;
  }
  documents.push_back({*tokens.integer(), *nats.number()});
  return true;
}

// `json`: [[tokens, nats], ...]. False where it is not.
bool TakeDocuments(const Json* json, Documents& documents) {
  if (json == nullptr || json->list() == nullptr) return false;
  for (const Json& pair : *json->list()) {
    const Json::List* two = pair.list();
    if (two == nullptr || two->size() != 2 || !TakeDocument((*two)[0], (*two)[1], documents)) {
      return false;
    }
  }
  return true;
}

absl::Status IsNoDocuments(const std::string& path) {
  return absl::DataLossError(path +
                             ": is no file of losses by document: {\"documents\": [[tokens, "
                             "nats], ...]}, or of many cells as a bundle has it");
}

// The object that a file of documents is.
absl::StatusOr<Json> ReadDocumentFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path));
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return absl::DataLossError(path + ": " + std::string(json.status().message()));
  if (json->object() == nullptr) return IsNoDocuments(path);
  return json;
}

// The documents of each cell of a file of many (PackedDocuments).
bool TakePacked(const Json& sets, std::map<std::string, Documents>& cells) {
  if (sets.list() == nullptr) return false;
  for (const Json& set : *sets.list()) {
    const Json *tokens = set.Find("tokens"), *nats = set.Find("nats");
    if (tokens == nullptr || nats == nullptr) return false;
    if (tokens->list() == nullptr || nats->object() == nullptr) return false;
    for (const auto& [key, values] : *nats->object()) {
      const Json::List* losses = values.list();
      if (losses == nullptr || losses->size() != tokens->list()->size()) return false;
      Documents& documents = cells[key];
      for (size_t i = 0; i < losses->size(); ++i) {
        if (!TakeDocument((*tokens->list())[i], (*losses)[i], documents)) return false;
      }
    }
  }
  return true;
}

// Takes a column as a number where it is there; a text that is none is an error.
absl::Status TakeNumber(const std::map<std::string, std::string>& columns, const std::string& name,
                        double& value) {
  const auto found = columns.find(name);
  if (found == columns.end() || found->second.empty()) return absl::OkStatus();
  const std::optional<double> number = ParseNumber(found->second);
  if (!number.has_value()) {
    return absl::InvalidArgumentError(name + ": is " + ShowJson(found->second) + ", not a number");
  }
  value = *number;
  return absl::OkStatus();
}

// What is wrong with the kinds of a line's members; empty where nothing is.
std::string KindFault(const Json& json, bool record) {
  std::vector<std::string> faults;
  JsonFields fields(json, "", faults);
  for (const char* name :
       {"rho", "seed", "validation_loss", "val", "budget", "table_parameters", "table_rows"}) {
    fields.Number(name, kUnknown);
  }
  if (record) {
    for (const char* name :
         {"validation_bits_per_byte", "train_loss", "parameters_total", "parameters_active",
          "parameters_tables", "flops_per_token", "residual_total", "residual_flops", "tokens",
          "unique_tokens", "epochs", "tokens_per_active", "steps", "seconds", "tokens_per_second",
          "peak_memory_bytes"}) {
      fields.Number(name, kUnknown);
    }
    for (const auto& [name, value] : *json.object()) {
      if (name.starts_with("loss.")) fields.Number(name, kUnknown);
    }
    fields.Integer("failures", 0);
    fields.Text("held_out", "");
  }
  const Json* key = fields.Find("key");
  if (key != nullptr && !ScalarText(*key).has_value()) {
    fields.Fault("key", "is " + ShowJson(*key) + ", not a text");
  }
  const Json* documents = fields.Find("documents");
  if (documents != nullptr && documents->list() == nullptr && documents->text() == nullptr) {
    fields.Fault("documents", "is " + ShowJson(*documents) +
                                  ", neither a list of [tokens, nats] nor the path of a file");
  }
  return faults.empty() ? "" : faults.front();
}

class Reader {
 public:
  Reader(const std::string& path, bool with_documents)
      : path_(path), with_documents_(with_documents) {
    table_.source = path;
  }

  absl::StatusOr<CellTable> Read() {
    std::error_code error;
    if (std::filesystem::is_directory(path_, error)) {
      return absl::InvalidArgumentError(path_ +
                                        ": is a folder; give a file of cells, JSONL or CSV");
    }
    ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path_));
    std::istringstream in(text.starts_with(kByteOrderMark) ? text.substr(3) : text);
    const size_t first = in.view().find_first_not_of(" \t\r\n");
    const bool json = first != std::string::npos && in.view()[first] == '{';
    for (std::string line; std::getline(in, line);) {
      ++line_;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.find_first_not_of(" \t") == std::string::npos) continue;
      RETURN_IF_ERROR(json ? JsonLine(line) : CsvLine(line));
    }
    if (table_.cells.empty()) return absl::InvalidArgumentError(path_ + ": holds no cell");
    return std::move(table_);
  }

  absl::StatusOr<CellResult> ReadOne() {
    ASSIGN_OR_RETURN(std::string text, ReadFileBytes(path_));
    if (text.ends_with('\n')) text.pop_back();
    if (text.find('\n') != std::string::npos) {
      return absl::DataLossError(path_ + ": has more than one line");
    }
    line_ = 1;
    record_ = true;
    if (const absl::Status line = JsonLine(text); !line.ok()) {
      return absl::DataLossError(line.message());
    }
    return std::move(table_.cells.front());
  }

 private:
  absl::Status JsonLine(const std::string& line) {
    const absl::StatusOr<Json> json = ParseJson(line);
    if (!json.ok()) return LineError(path_, line_, std::string(json.status().message()));
    if (json->object() == nullptr) return LineError(path_, line_, "is not a JSON object");
    if (const std::string fault = KindFault(*json, record_); !fault.empty()) {
      return LineError(path_, line_, fault);
    }
    CellResult cell;
    cell.columns = ScalarsOf(*json);
    const Json* documents = json->Find("documents");
    if (documents != nullptr && documents->list() != nullptr &&
        !TakeDocuments(documents, cell.documents)) {
      return LineError(path_, line_, "'documents' is no list of [tokens, nats]");
    }
    return Add(std::move(cell));
  }

  absl::Status CsvLine(const std::string& line) {
    std::vector<std::string> fields;
    std::string field;
    bool quoted = false;
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (c == '"') {
        if (quoted && i + 1 < line.size() && line[i + 1] == '"')
          field += line[++i];
        else
          quoted = !quoted;
      } else if (c == ',' && !quoted) {
        fields.push_back(std::move(field));
        field.clear();
      } else {
        field += c;
      }
    }
    if (quoted) return LineError(path_, line_, "a quotation mark is not closed");
    fields.push_back(std::move(field));
    if (head_.empty()) {
      head_ = fields;
      return absl::OkStatus();
    }
    if (fields.size() != head_.size()) {
      return LineError(path_, line_,
                       "has " + std::to_string(fields.size()) + " fields, the head line has " +
                           std::to_string(head_.size()));
    }
    CellResult cell;
    for (size_t i = 0; i < fields.size(); ++i) cell.columns[head_[i]] = fields[i];
    return Add(std::move(cell));
  }

  absl::Status Add(CellResult cell) {
    const auto has = [&](const char* name) {
      const auto found = cell.columns.find(name);
      return found != cell.columns.end() && !found->second.empty();
    };
    const std::string loss = has("validation_loss") ? "validation_loss" : "val";
    if (!has(loss.c_str())) {
      return LineError(path_, line_, "has no validation_loss (or val)");
    }
    cell.rho = cell.table = cell.validation_loss = kUnknown;
    double seed = 0.0;
    for (const char* name : {"table_parameters", "table_rows"}) {
      if (has(name) && table_.table_column.empty()) table_.table_column = name;
    }
    for (const auto& [name, value] : {std::pair<std::string, double*>{"rho", &cell.rho},
                                      {loss, &cell.validation_loss},
                                      {"budget", &cell.budget},
                                      {"seed", &seed},
                                      {table_.table_column, &cell.table}}) {
      const absl::Status taken = TakeNumber(cell.columns, name, *value);
      if (!taken.ok()) return LineError(path_, line_, std::string(taken.message()));
    }
    if (seed != std::floor(seed) || std::fabs(seed) > kLargestSeed)
      return LineError(path_, line_,
                       "seed: is " + NumberText(seed) + ", not a whole number of at most 2^53");
    if (cell.rho < 0.0 || cell.rho > 1.0) {
      return LineError(path_, line_,
                       "rho: is " + NumberText(cell.rho) + "; a share lies between 0 and 1");
    }
    for (const auto& [name, value] : {std::pair<std::string, double>{"budget", cell.budget},
                                      {table_.table_column, cell.table}}) {
      if (value < 0.0)
        return LineError(path_, line_, name + ": is " + NumberText(value) + ", below 0");
    }
    cell.seed = static_cast<int64_t>(seed);
    cell.key = has("key") ? cell.columns["key"] : "line " + std::to_string(line_);
    if (with_documents_ && cell.documents.empty() && has("documents")) {
      const auto folder = std::filesystem::path(path_).parent_path();
      const absl::Status taken =
          TakeDocumentsOf((folder / cell.columns["documents"]).string(), cell);
      if (!taken.ok()) {
        return absl::Status(taken.code(), path_ + ":" + std::to_string(line_) +
                                              ": documents: " + std::string(taken.message()));
      }
    }
    table_.cells.push_back(std::move(cell));
    return absl::OkStatus();
  }

  // From a file of one cell, or of many that is read once.
  absl::Status TakeDocumentsOf(const std::string& path, CellResult& cell) {
    if (packed_.count(path) == 0) {
      ASSIGN_OR_RETURN(const Json json, ReadDocumentFile(path));
      const Json* sets = json.Find("sets");
      if (sets == nullptr) {
        const bool whole = TakeDocuments(json.Find("documents"), cell.documents);
        return whole ? absl::OkStatus() : IsNoDocuments(path);
      }
      if (!TakePacked(*sets, packed_[path])) return IsNoDocuments(path);
    }
    const auto found = packed_[path].find(cell.key);
    if (found == packed_[path].end())
      return absl::DataLossError(path + ": has no documents of cell " + cell.key);
    cell.documents = found->second;
    return absl::OkStatus();
  }

  const std::string path_;
  const bool with_documents_;
  CellTable table_;
  std::map<std::string, std::map<std::string, Documents>> packed_;  // by path
  std::vector<std::string> head_;
  size_t line_ = 0;
  bool record_ = false;
};

}  // namespace

absl::StatusOr<CellTable> ReadCells(const std::string& path, bool with_documents) {
  return Reader(path, with_documents).Read();
}

absl::StatusOr<CellResult> ReadCell(const std::string& path) {
  return Reader(path, /*with_documents=*/false).ReadOne();
}

absl::StatusOr<Documents> ReadDocuments(const std::string& path) {
  ASSIGN_OR_RETURN(const Json json, ReadDocumentFile(path));
  Documents documents;
  if (TakeDocuments(json.Find("documents"), documents)) return documents;
  return IsNoDocuments(path);
}

absl::Status CheckMean(const CellResult& cell, const Documents& documents) {
  double tokens = 0.0, nats = 0.0;
  for (const DocumentScore& document : documents) {
    tokens += static_cast<double>(document.tokens);
    nats += document.nats;
  }
  if (tokens <= 0.0) return absl::OkStatus();
  const double mean = nats / tokens;
  const double rounding = 0.5 / kNatsKept * static_cast<double>(documents.size()) / tokens;
  const double bound = rounding + kSumError * (1.0 + std::fabs(mean));
  if (std::fabs(mean - cell.validation_loss) <= bound) return absl::OkStatus();
  return absl::DataLossError("the documents of cell " + cell.key + " have a mean of " +
                             NumberText(mean) + " nats a token, and its validation_loss is " +
                             NumberText(cell.validation_loss) +
                             ": one of them is another cell's, or was changed");
}

std::string PackedDocuments(const std::vector<std::pair<std::string, Documents>>& cells) {
  std::map<std::string, JsonObject> sets;  // by their tokens
  for (const auto& [key, documents] : cells) {
    std::vector<double> nats;
    std::vector<std::string> tokens;
    for (const DocumentScore& document : documents) {
      tokens.push_back(std::to_string(document.tokens));
      nats.push_back(document.nats);
    }
    sets[JsonArray(tokens)].AddRaw(key, JsonArray(nats));
  }
  std::vector<std::string> texts;
  for (const auto& [tokens, nats] : sets)
    texts.push_back(JsonObject().AddRaw("tokens", tokens).AddRaw("nats", nats.Text()).Text());
  return JsonObject().AddRaw("sets", JsonArray(texts)).Text();
}

std::map<std::string, std::string> ScalarsOf(const std::string& line) {
  return ScalarsOf(ParseJson(line).value_or(Json()));
}

std::string WithColumns(const std::string& line,
                        const std::vector<std::pair<std::string, std::string>>& columns) {
  Json json = ParseJson(line).value_or(Json());
  if (json.object() == nullptr) return line;
  bool same = true;
  for (const auto& [name, text] : columns) {
    const Json value = ParseJson(text).value_or(Json());
    const Json* before = json.Find(name);
    same = same && before != nullptr && JsonText(*before) == JsonText(value);
    json.Set(name, value);
  }
  return same ? line : JsonText(json) + "\n";
}

}  // namespace mneme
