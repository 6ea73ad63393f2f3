// One update of everything: clip norm over all views, AdamW and Muon on the ranges this rank owns,
// tables, router biases.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/model.h"
#include "configs/optim.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/parameter.h"

namespace mneme {

// Moments of the owned range of each region: AdamW first and second, Muon the momentum buffer.
struct RegionState {
  Region* region = nullptr;
  Tensor first;   // [owned] AdamW m, or Muon's buffer
  Tensor second;  // [owned] AdamW v; undefined for Muon
};

struct UpdateReport {
  double grad_norm = 0.0;  // before clipping, tables included if they count
  double table_grad_norm = 0.0;
  bool skipped = false;
};

class Optimizer {
 public:
  Optimizer(Context& context, const OptimConfig& optim, const ModelConfig& model,
            ParameterStore& store, Stack& stack);

  // After backward: reduce gradients, norms, decide (the caller's `loss_ok` is already global),
  // update number `update` (counts over all stages, for the bias corrections) at `rate`, gather
  // weights, move router biases, zero gradients. Collective; the same report on every rank.
  UpdateReport Step(Context& context, int64_t update, double rate, bool loss_ok,
                    bool skip_nonfinite);

  std::vector<RegionState>& state() { return state_; }

 private:
  OptimConfig optim_;
  ModelConfig model_;
  ParameterStore& store_;
  Stack& stack_;
  std::vector<RegionState> state_;
};

}  // namespace mneme
