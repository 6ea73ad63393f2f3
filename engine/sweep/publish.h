// Results, fit and report of a sweep, beside its cells.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sweep/fit.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/sweep_config.h"

namespace mneme {

// Writes results.jsonl and results.csv of the finished cells, and where they are enough for a fit
// fit.json, report.html and the figures; the report with its figures also to `report` where that is
// not empty (WriteReport). `note` says where the report is, or why there is none yet. Errors:
// files.
absl::Status PublishSweep(const SweepConfig& sweep, const SweepGrid& grid,
                          const std::string& report, std::string& note);

// loss_vs_rho.svg and .png of each budget, loss_vs_table.svg and .png. Their paths begin with
// `begin`, a folder and "/", perhaps with more, and are returned.
absl::StatusOr<std::vector<std::string>> WriteFigures(const SweepFit& fit,
                                                      const std::string& begin);

// Whether WriteReport may write to `path`, as far as can be seen before: its folder is there, or
// can be made where it is one, and nothing else would be lost. InvalidArgument or
// FailedPrecondition otherwise.
absl::Status CheckReport(const std::string& path);
// A report where it was asked for. `path` is an HTML file, a.html, whose figures stand beside it as
// a_loss_vs_rho.svg and so on; or a folder, one that is there or whose name ends with "/", which
// gets report.html, loss_vs_rho.svg and so on as a sweep's own has them. Returns a line that names
// all. Errors (InvalidArgument, as the path was typed): files.
absl::StatusOr<std::string> WriteReport(const SweepFit& fit, const std::string& html,
                                        const std::string& path);

}  // namespace mneme
