// A sweep's results as a folder of its own, which proves itself: cells, losses by document, fit and
// figures, and a digest of each file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/sweep/cells.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/sweep_config.h"

namespace mneme {

// Writes `folder`, which must not exist or be empty: sweep.yaml, fit_config.json, results.jsonl,
// results.csv, documents.json and MANIFEST, and where the cells are enough for a fit fit.json,
// report.html and figures. Returns a line for people. Errors: InvalidArgument for a folder that
// holds something, or cells that cannot be fitted; FailedPrecondition where none is finished.
absl::StatusOr<std::string> WriteBundle(const SweepConfig& sweep, const SweepGrid& grid,
                                        const std::string& folder);

// Checks every digest of a bundle. Returns how many files it has. Errors: NotFound; DataLoss naming
// a file that is missing, changed or unknown.
absl::StatusOr<int64_t> CheckDigests(const std::string& folder);

// The cells of a bundle with their losses by document, whose mean is each one's loss. Errors:
// those of ReadCells; DataLoss naming the cell.
absl::StatusOr<CellTable> ReadBundleCells(const std::string& folder);

// CheckDigests, and makes the fit again. Returns a line for people. Errors also: DataLoss where the
// fit comes to other digits.
absl::StatusOr<std::string> VerifyBundle(const std::string& folder);

}  // namespace mneme
