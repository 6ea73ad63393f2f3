// An Engram table of a checkpoint as the matrix that it is: rows that updates have moved come from
// the files, all others are what the seed makes (docs/checkpoint_format.md).
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "configs/run.h"
#include "engine/checkpoint/source.h"
#include "parallel/row_store.h"

namespace mneme {

class TableRows {
 public:
  // `name`: of a table in the manifest, "blocks.1.engram.table". `config` is the checkpoint's: seed
  // and spread of first values. `source` stays its owner's.
  TableRows(CheckpointSource& source, const std::string& name, const RunConfig& config);

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  int64_t stored() const { return stored_; }  // rows in the files

  // Rows [begin, begin + to.size() / width), in the order of the table. REQUIRES: whole rows inside
  // the table. Errors: DataLoss where the ids of a part do not rise; files.
  absl::Status Read(int64_t begin, absl::Span<double> to);
  // Sets a 1 for each of rows [begin, begin + stored.size()) that is in the files, and leaves the
  // others' marks. Errors: as of Read.
  absl::Status MarkStored(int64_t begin, absl::Span<char> stored);
  // Every stored row of every part, whole rows, a few MiB at a time, in no order of rows.
  absl::Status Scan(const std::function<void(absl::Span<const double>)>& see);

 private:
  struct Run {
    int64_t begin;
    int64_t end;
  };
  // The positions in a part whose ids lie in [begin, end): ids rise.
  absl::StatusOr<Run> Find(const StoredTable& part, int64_t begin, int64_t end);
  absl::StatusOr<int64_t> LowerBound(const StoredTable& part, int64_t id);
  // Those ids, at the positions that Find gave.
  absl::StatusOr<std::vector<int64_t>> ReadIds(const StoredTable& part, Run run, int64_t begin,
                                               int64_t end);
  absl::Status ReadValues(const StoredTable& part, Run run, std::vector<double>& to);

  CheckpointSource& source_;
  RowInit init_;
  DType dtype_;
  std::vector<StoredTable> parts_;
  int64_t rows_ = 0;
  int64_t width_ = 0;
  int64_t stored_ = 0;
};

}  // namespace mneme
