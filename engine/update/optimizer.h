// One update of everything: clip norm over all views, AdamW and Muon on the ranges this rank owns,
// tables, router biases.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/model.h"
#include "configs/optim.h"
#include "configs/train.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/parameter.h"
#include "parallel/reduce.h"

namespace mneme {

// Moments of the owned range of a region: AdamW's first and second, or Muon's buffer.
struct RegionState {
  Region* region = nullptr;
  bool muon = false;  // updated by Muon; matrices are not, where optim.matrices is adamw
  Tensor first;       // [owned] AdamW m, or Muon's buffer
  Tensor second;      // [owned] AdamW v; undefined for Muon
};

// Places in the f64 tensor `report` of a step: those of ReportScalar, then
inline constexpr int kReportImbalance = kReportScalars;  // largest expert load over the mean,
                                                         // worst MoE block; 0 without
inline constexpr int kStepReportScalars = kReportScalars + 1;

// Owned by the trainer, beside the store and the stack that it moves. One a rank.
class Optimizer {
 public:
  // Momenta that are orthogonalised at once, in bytes as products read them; at least a matrix.
  static constexpr int64_t kMuonBatchBytes = int64_t{256} << 20;

  Optimizer(Context& context, const OptimConfig& optim, const ModelConfig& model,
            const SkipConfig& skip, ParameterStore& store, Stack& stack,
            int64_t muon_batch_bytes = kMuonBatchBytes);

  // What the next decision rests on: updates made so far over all stages (the bias corrections
  // count them), losses of the last ones, oldest first, of which the newest skip.window count.
  void SetHistory(Context& context, int64_t updates, const std::vector<double>& recent_losses);

  // For the last micro-batch of a step: what it says is final sets out to be summed while the rest
  // of backward computes.
  GradientsFinal Listen(Context& context) {
    return [this, &context](absl::Span<Parameter* const> parameters) {
      reduction_.Final(context.stream, parameters);
    };
  }

  // After backward: reduces gradients, takes norms, decides, updates, gathers weights, moves router
  // biases, zeroes gradients and loads. Where it skips, nothing moves. plan f64 [kPlanScalars];
  // sums f64 [kSumScalars], of which the losses are this rank's; report f64 [kStepReportScalars] is
  // assigned, the same on every rank. Waits for nothing; collective.
  void Step(Context& context, const Tensor& plan, Tensor& sums, Tensor& report);

  std::vector<RegionState>& state() { return state_; }

 private:
  // Adds this rank's Σ g² to `sums`, each gradient once in the world.
  void AddSquares(Context& context, Tensor& sums);
  void UpdateAdamW(Context& context, RegionState& state);
  void UpdateMuon(Context& context, RegionState& state);
  // Matrices of a piece's shape and decay at once, which stand in these runs of the owned range.
  void UpdateMatrices(Context& context, RegionState& state, const Piece& piece, FlatRuns runs);
  // Loads of all ranks on their way, for UpdateRouters.
  SideJob SumLoads(Context& context);
  // Assigns the worst load imbalance, f64 [1].
  void UpdateRouters(Context& context, Tensor& imbalance);

  const int64_t muon_batch_bytes_;
  OptimConfig optim_;
  ModelConfig model_;
  ParameterStore& store_;
  Stack& stack_;
  GradientReduction reduction_;
  std::vector<RegionState> state_;
  StepDecisionOptions decision_;
  Tensor history_;     // f64 [kHistoryRing + window]
  Tensor step_;        // f64 [kStepScalars] of everything but the tables
  Tensor table_step_;  // the same with the tables' own bias corrections
};

}  // namespace mneme
