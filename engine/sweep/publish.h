// Results, fit and report of a sweep, beside its cells.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/sweep/fit.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/sweep_config.h"

namespace mneme {

// Writes results.jsonl and results.csv of the finished cells, and where they are enough for a fit
// fit.json, report.html and the figures; the report also to `report` where that is not
// empty. Where they are not enough yet, `note` says why. Errors: files.
absl::Status PublishSweep(const SweepConfig& sweep, const SweepGrid& grid,
                          const std::string& report, std::string& note);

// loss_vs_rho.svg and .png of each budget, loss_vs_table.svg and .png, in `folder`.
absl::Status WriteFigures(const SweepFit& fit, const std::string& folder);

}  // namespace mneme
