// What is known of finished cells, from any JSONL or CSV that has rho, seed and a loss.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/evaluation/document_score.h"

namespace mneme {

// One finished cell. What the file does not say is NaN, or 0 where so said.
struct CellResult {
  std::string key;      // of the cell; the line where the file has none
  double rho;           // share of the sparse parameters given to experts
  double table;         // table size, in the unit of its column
  double budget = 0.0;  // training FLOPs; 0: not said
  int64_t seed = 0;
  double validation_loss;                      // nats a token
  std::vector<DocumentScore> documents;        // in the held-out set's order; empty: not said
  std::map<std::string, std::string> columns;  // every scalar of the line, as text
};

struct CellTable {
  std::string source;
  std::string table_column;  // the column that `table` comes from; empty: none
  std::vector<CellResult> cells;
};

// Reads `path`: JSONL where its first line is an object, else CSV with a head line. Columns: `rho`
// (0 to 1), `seed` (absent: 0), `validation_loss` or `val`; optional `key`, `budget`,
// `table_parameters` or `table_rows` (neither below 0), and per-document losses: `documents`,
// either a list of [tokens, nats] or the path of a file of them (ReadDocuments), relative to
// `path`. In JSON these are numbers, texts and null alone. Errors: NotFound; DataLoss or
// InvalidArgument with file, line and what is wrong. Without documents, a path to them is left
// alone.
absl::StatusOr<CellTable> ReadCells(const std::string& path, bool with_documents = true);
// The cell of a done.json: a record, one line of JSON, every number of which must be one. Without
// documents. Errors: files; DataLoss with file and what is wrong.
absl::StatusOr<CellResult> ReadCell(const std::string& path);

using Documents = std::vector<DocumentScore>;
// A document's loss is kept to a ten-thousandth of a nat: what is below it is rounding of floats,
// and half of the text.
inline constexpr double kNatsKept = 1e4;
// Whether `documents` are those of the cell: nats over tokens are its validation_loss, within what
// the rounding of each may add. DataLoss that says both; OK where no document has a token.
absl::Status CheckMean(const CellResult& cell, const Documents& documents);
// The file of one cell: {"documents": [[tokens, nats], ...]}. Errors: NotFound, DataLoss.
absl::StatusOr<Documents> ReadDocuments(const std::string& path);
// One text for many cells, the tokens of documents that cells have in common said once:
// {"sets": [{"tokens": [...], "nats": {"KEY": [...], ...}}, ...]}.
std::string PackedDocuments(const std::vector<std::pair<std::string, Documents>>& cells);

// Numbers, words and truths of a JSON object on one line, as texts by name; empty where it is none.
std::map<std::string, std::string> ScalarsOf(const std::string& line);
// `line`, a JSON object, with these columns (values are JSON) in the place of its own or behind
// them. What is no object stays as it is.
std::string WithColumns(const std::string& line,
                        const std::vector<std::pair<std::string, std::string>>& columns);

}  // namespace mneme
