// Cells of one allocation sweep (arXiv 2601.07372, section 3): rho is the share of the inactive
// parameters that routed experts hold, (E - k) / (E_max - k) for E of E_max experts and k chosen
// ones; table rows hold the rest. Cells are comparable where all have the same total parameters and
// the same FLOPs a token; the solver makes them so, and says by how much they are not. Pure
// arithmetic on ModelConfig; what it counts is what Count counts, tables of true primes included.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/model.h"
#include "models/count.h"

namespace mneme {

// What gives way to the FLOPs that Engram's projections add and smaller routers save.
enum class Compensation {
  kNone,    // nothing: the residual is told
  kDense,   // model.dense_width
  kShared,  // model.moe.shared_width
  kMemory,  // model.engram.d_mem, one for all cells: the largest within the bounds
};
// "none", "dense", "shared", "memory"; InvalidArgument with the nearest of these for other words.
absl::StatusOr<Compensation> CompensationOf(const std::string& word);

struct BudgetRequest {
  // The model at rho = 1: moe.experts is E_max. Its engram section is the geometry that cells with
  // tables take: blocks, orders, heads, d_mem; one vocab_size an order keeps their proportions.
  // A base whose tables have rows (vocab_size above 1) is a cell itself: E_max is then the nearest
  // whole number of experts that have the parameters of its experts and tables, and `active` is
  // its own.
  ModelConfig base;
  std::vector<double> rho;  // in [0, 1]
  int64_t sequence_length = 0;
  // Wanted, as the paper counts (no vocabulary matrix); 0 takes the base's. They choose E_max and
  // the dense (else the shared) width at rho = 1, and what a whole number cannot meet is left.
  double total = 0.0;
  double active = 0.0;
  Compensation compensation = Compensation::kDense;
  int64_t width_multiple = 8;  // widths, and values of a table's row, are multiples of this
  bool strict = true;          // false: the published rule, nothing compensated and nothing refused
  double total_bound = 0.001;  // largest spread between cells, as a share of the reference
  double flops_bound = 0.01;
};

// More (or less) than the reference at rho = 1.
struct BudgetResidual {
  int64_t total = 0;         // parameters
  double total_share = 0.0;  // of the reference's
  double flops = 0.0;        // FLOPs a token in training, head and attention scores included
  double flops_share = 0.0;
};

struct BudgetCell {
  double asked_rho = 0.0;
  double rho = 0.0;   // what a whole number of experts makes of it
  ModelConfig model;  // ready to train; without Engram where all experts are there
  Counts counts;
  double flops_per_token = 0.0;
  BudgetResidual published;  // by the published rule: freed experts become rows, nothing else moves
  BudgetResidual residual;   // of `model`
};

struct Budget {
  ModelConfig reference;  // rho = 1
  Counts counts;
  double flops_per_token = 0.0;
  std::vector<BudgetCell> cells;  // in the order of the request
  // Largest less smallest over the cells.
  BudgetResidual published_spread;
  BudgetResidual spread;
};

// Errors (InvalidArgument, with the numbers and what to change): a base without experts or without
// the geometry of a memory, two rhos of one number of experts, a width that would have to fall
// below one unit, spreads beyond the bounds.
absl::StatusOr<Budget> SolveBudget(const BudgetRequest& request);

// A table for people: a line a cell, with both residuals, and the spreads.
std::string BudgetText(const Budget& budget);

}  // namespace mneme
