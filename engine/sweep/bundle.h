// A sweep's results as a folder of its own, which proves itself: cells, losses by document, fit and
// figures, and a digest of each file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/sweep_config.h"

namespace mneme {

// Writes `folder`, which must not exist or be empty: sweep.yaml, fit_config.json, results.jsonl,
// results.csv, documents.json, fit.json, report.html, figures, MANIFEST. Returns a line for
// people. Errors: InvalidArgument for a folder that holds something, or cells that give no fit.
absl::StatusOr<std::string> WriteBundle(const SweepConfig& sweep, const SweepGrid& grid,
                                        const std::string& folder);

// Checks every digest of a bundle and makes its fit again. Returns a line for people. Errors:
// NotFound; DataLoss naming a file that is missing, changed or unknown, or where the fit comes to
// other digits.
absl::StatusOr<std::string> VerifyBundle(const std::string& folder);

}  // namespace mneme
