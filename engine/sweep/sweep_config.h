// What a sweep file says (docs/sweeps.md).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sweep/fit.h"

namespace mneme {

// How cells of one rho axis are made comparable: the request to engine/plan/budget.h.
struct AllocationConfig {
  std::string compensation = "dense";
  bool strict = true;
  double total = 0.0;
  double active = 0.0;
  int64_t width_multiple = 8;
  double total_bound = 0.001;
  double flops_bound = 0.01;

  template <class V>
  void Visit(V& v) {
    v("compensation", compensation, "what gives way to the FLOPs of Engram's projections",
      {"none", "dense", "shared", "memory"});
    v("strict", strict, "false: a published geometry as published, nothing compensated or refused");
    v("total", total, "parameters wanted, as the paper counts; 0 takes the base's");
    v("active", active, "active parameters wanted; 0 takes the base's");
    v("width_multiple", width_multiple, "widths are multiples of this");
    v("total_bound", total_bound, "largest spread of total parameters between cells, as a share");
    v("flops_bound", flops_bound, "largest spread of FLOPs a token");
  }
};

// What a launch line may name in braces.
inline constexpr const char* kLaunchWords[] = {"program", "config",     "rho",
                                               "seed",    "local_rank", "gpu"};

// How a cell is run.
struct CellRunConfig {
  std::string launch = "{program} train {config}";
  int64_t side_by_side = 1;
  int64_t attempts = 3;
  double lease_seconds = 60.0;
  double idle_seconds = 1800.0;
  bool wait = true;
  double time_limit = 0.0;
  bool keep_checkpoints = true;
  std::string device = "auto";
  int64_t ranks = 1;

  template <class V>
  void Visit(V& v) {
    v("launch", launch,
      "shell line of a cell; {program}, {config}, {rho}, {seed}, {local_rank} and {gpu} are filled "
      "in");
    v("side_by_side", side_by_side,
      "cells that a worker trains at once, in one process, as many as the device's memory holds");
    v("attempts", attempts, "times that a cell may fail before it is left");
    v("lease_seconds", lease_seconds,
      "a worker that has not been heard of for so long has lost its cell");
    v("idle_seconds", idle_seconds,
      "a cell that writes no step, no line of its log and no checkpoint for so long is ended and "
      "counts as failed; 0: never");
    v("wait", wait,
      "a worker waits while others hold the last cells, to take over what they lose; false: it "
      "ends when no cell is free");
    v("time_limit", time_limit,
      "seconds that a worker has: it begins no cell that would not end in them, by the pace of "
      "those that are done, and ends when none is left that would; 0: no limit");
    v("keep_checkpoints", keep_checkpoints, "false: a finished cell's checkpoints are deleted");
    v("device", device,
      "what the hours of a dry run are for: a shipped device, or a file of your own; auto: what "
      "`mneme plan` takes");
    v("ranks", ranks, "of a cell, as the launch line starts them: for the hours of a dry run");
  }
};

// One axis: a name and the YAML text of each value.
struct SweepAxis {
  std::string name;
  std::vector<std::string> values;
};

// A whole sweep file. Paths are resolved against the file that names them; empty names are filled
// in.
struct SweepConfig {
  std::string name;
  std::string base;    // a run's config
  std::string folder;  // where the cells live
  AllocationConfig allocation;
  CellRunConfig run;
  FitConfig fit;
  std::vector<std::string> columns;
  // Read by hand: free keys.
  std::vector<std::string> overrides;  // "key=value" of every cell
  std::vector<SweepAxis> axes;         // in the file's order
  std::string text;                    // of the file

  template <class V>
  void Visit(V& v) {
    v("name", name, "of the sweep; empty: the file's");
    v.Path("base", base, "config of the run that every cell starts from");
    v.Path("folder", folder, "where the cells live; empty: sweeps/<name>");
    v("allocation", allocation, "how cells of a rho axis are made comparable");
    v("run", run, "how a cell is run");
    v("fit", fit, "how the results are read; stored with the first cell");
    v("columns", columns, "of the cells' table in the report; [] takes the usual ones");
  }
};

// Reads `path`, then key=value overrides. Everything that is wrong at once, as LoadConfig tells it
// (InvalidArgument; NotFound where the file is missing).
absl::StatusOr<SweepConfig> LoadSweep(const std::string& path,
                                      const std::vector<std::string>& overrides);
// The fit section as text: what is stored with the first cell.
std::string FitSectionText(const FitConfig& fit);

}  // namespace mneme
