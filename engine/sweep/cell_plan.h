// What each cell of a grid will take, before any is run: the plan of its run
// (engine/forecast/forecast.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/sweep_config.h"

namespace mneme {

struct CellPlan {
  std::optional<double> hours;  // of all steps, on run.ranks of run.device
  std::string fault;            // why there are none
  std::string breaks;           // the first limit of the device that the cell breaks; empty: none
};

// In the grid's order. Cells that differ in seeds alone share a plan. Errors (InvalidArgument): a
// device that nobody knows.
absl::StatusOr<std::vector<CellPlan>> PlanCells(const SweepConfig& sweep, const SweepGrid& grid);

// The grid with its plans. A table for people; one JSON object: name, folder, device, ranks, hours
// of all that have some, cells (rho, seed, key, parameters {total without the vocabulary's
// matrices, active, sparse, tables}, flops_per_token, tokens, hours, no_hours, breaks, residual).
std::string GridText(const SweepConfig& sweep, const SweepGrid& grid,
                     const std::vector<CellPlan>& plans);
std::string GridJson(const SweepConfig& sweep, const SweepGrid& grid,
                     const std::vector<CellPlan>& plans);

}  // namespace mneme
