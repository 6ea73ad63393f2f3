// The cells of a sweep: every combination of its axes, each a whole run.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/plan/budget.h"
#include "engine/sweep/sweep_config.h"
#include "models/count.h"

namespace mneme {

struct SweepCell {
  std::string key;  // CellKey; empty where the data cannot be read yet
  std::vector<std::pair<std::string, std::string>> axes;  // name, value as the file has it
  std::optional<double> rho;    // what a whole number of experts makes of the axis
  std::optional<double> table;  // rows of a sub-table, on the axis `table`
  int64_t seed = 0;
  double budget = 0.0;  // training FLOPs; 0: the sweep has no such axis
  RunConfig config;     // run.dir is not set; its first held-out set is the primary one
  Counts counts;        // with the data's vocabulary where it can be read
  double flops_per_token = 0.0;
  double tokens = 0.0;      // trained on
  BudgetResidual residual;  // against the reference of its rho axis
  bool solved = false;      // has a residual
};

struct SweepGrid {
  std::vector<SweepCell> cells;  // in the order they are run: seeds outermost
  std::string data_fault;        // why they cannot be run; keys may then be empty
};

// Axes with a meaning of their own, others are config keys:
//   rho        share of the sparse parameters given to experts: engine/plan/budget.h makes the
//              cells of one rho axis equal in parameters and FLOPs. The base is the model at rho 1
//              with the geometry of a memory; tables of two rows, the least that a config may say,
//              are none
//   seed       train.seed, data.seed and model.engram.hash_seed: cells of one seed share data
//              order, initial values and hash
//   budget     training FLOPs, 6 · active parameters · tokens as the paper counts: sets
//              train.steps, the same for all rho
//   table      model.engram.vocab_size; placement: model.engram.blocks
//   ablation   reference, single_fusion, no_compression, no_gate, four_grams, no_convolution
//              (arXiv 2601.07372, section 6.2)
// fit.held_out comes first among each cell's held-out sets, so that its loss is the
// validation_loss, the losses by document are its own and the key covers it.
// Errors (InvalidArgument): every fault of the configs; grids whose budgets cannot be met; two
// cells with the same numbers; a held-out set that a cell does not evaluate.
absl::StatusOr<SweepGrid> MakeGrid(const SweepConfig& sweep);

}  // namespace mneme
