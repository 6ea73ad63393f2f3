// One update of everything: clip norm over all views, AdamW and Muon on the ranges this rank owns,
// tables, router biases.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "configs/model.h"
#include "configs/optim.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/parameter.h"

namespace mneme {

// Moments of the owned range of a region: AdamW's first and second, or Muon's buffer.
struct RegionState {
  Region* region = nullptr;
  bool muon = false;  // updated by Muon; matrices are not, where optim.matrices is adamw
  Tensor first;       // [owned] AdamW m, or Muon's buffer
  Tensor second;      // [owned] AdamW v; undefined for Muon
};

struct UpdateReport {
  double grad_norm = 0.0;        // before clipping, tables included if they count
  double table_grad_norm = 0.0;  // of the tables alone
  bool skipped = false;
  double load_imbalance = 0.0;  // largest expert load over the mean, worst MoE block; 0 without
};

// Owned by the trainer, beside the store and the stack that it moves. One a rank.
class Optimizer {
 public:
  Optimizer(Context& context, const OptimConfig& optim, const ModelConfig& model,
            ParameterStore& store, Stack& stack);

  // After backward: reduces gradients, takes norms, decides (`loss_ok` is already global), makes
  // update number `update` (counts from 1 over all stages, for the bias corrections) at `rate`,
  // gathers weights, moves router biases, zeroes gradients and loads. Where it skips, nothing
  // moves. Collective; the same report on every rank.
  UpdateReport Step(Context& context, int64_t update, double rate, bool loss_ok,
                    bool skip_nonfinite);

  std::vector<RegionState>& state() { return state_; }

 private:
  // Σ g² over all ranks, each gradient once: {dense and experts, tables}.
  std::pair<double, double> SquaredNorms(Context& context);
  void UpdateAdamW(Context& context, RegionState& state);
  void UpdateMuon(Context& context, RegionState& state);
  // Returns the worst load imbalance.
  double UpdateRouters(Context& context);

  OptimConfig optim_;
  ModelConfig model_;
  ParameterStore& store_;
  Stack& stack_;
  std::vector<RegionState> state_;
  Tensor step_;        // f64 [kStepScalars] of everything but the tables
  Tensor table_step_;  // the same with the tables' own bias corrections
};

}  // namespace mneme
