// A worker of a sweep: one process among any number that share the sweep's folder.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/sweep_config.h"

namespace mneme {

struct WorkerResult {
  int exit_code = 0;   // 0: every cell is done; 1: some failed for good; 75: some are left
  int64_t done = 0;    // of all cells
  int64_t failed = 0;  // for good
  int64_t ran = 0;     // by this worker
};

// Runs cells until none is left: takes those that nobody holds, waits while others hold the rest
// and takes over what a dead worker left. `program` starts a cell. Writes results.jsonl and
// results.csv after each. SIGTERM, SIGINT and SIGUSR1 let its cells save and end with 75.
// Logs to stderr. Errors: a grid without keys (its data cannot be read), a folder that cannot be
// written.
absl::StatusOr<WorkerResult> RunCells(const SweepConfig& sweep, const SweepGrid& grid,
                                      const std::string& program);

}  // namespace mneme
