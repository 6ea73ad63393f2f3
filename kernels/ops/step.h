// What a step decides and reports of itself, on the device.
#pragma once

#include "kernels/core/tensor.h"
#include "kernels/ops/update.h"

namespace mneme {

// What stands between the sums of a step and its update, decided where the sums are, so that no
// step waits for the host: norms, clip scale, whether to skip, bias corrections.
struct StepDecisionOptions {
  double clip = 0.0;                             // largest gradient norm; 0: no clipping
  bool tables_in_norm = true;                    // whether the clip norm counts the tables
  double beta1 = 0.9, beta2 = 0.95;              // of AdamW
  double table_beta1 = 0.9, table_beta2 = 0.95;  // of the tables
  bool skip_nonfinite = true;                    // skip where the loss or a gradient is not finite
  double outlier_sigma = 0.0;  // skip a loss this many deviations above the window's mean; 0: off
  int64_t window = 0;          // losses in a full window
};
// Places in `plan`, f64 [kPlanScalars]: what the host knows before the step.
enum PlanScalar : int {
  kPlanRate = 0,     // learning rate
  kPlanCounted = 1,  // targets that count, over all ranks
  kPlanScalars = 2,
};
// Places in `sums`, f64 [kSumScalars]: over all micro-batches and ranks.
enum SumScalar : int {
  kSumLosses = 0,
  kSumBalance = 1,  // the balance loss, already scaled
  kSumDense = 2,    // Σ g² of everything but the tables
  kSumTables = 3,   // Σ g² of the tables
  kSumScalars = 4,
};
// Places in `history`, f64 [kHistoryRing + window]; all zero before the first step.
enum HistoryScalar : int {
  kHistoryUpdates = 0,   // updates made
  kHistoryLosses = 1,    // losses in the ring
  kHistoryPosition = 2,  // where in the ring the next loss goes: the oldest one's place once full
  kHistoryRing = 3,      // losses of the last updates
};
// Places in `report`, f64 [kReportScalars].
enum ReportScalar : int {
  kReportLoss = 0,           // mean over the counted targets; 0 without any
  kReportBalance = 1,        // kSumBalance
  kReportGradNorm = 2,       // what is clipped: with the tables if they count
  kReportTableGradNorm = 3,  // of the tables alone
  kReportSkipped = 4,        // 1: skipped
  kReportScalars = 5,
};
// `history` moves on where the step is not skipped. Assigns `step` and `table_step` [kStepScalars],
// which differ in their bias corrections only, and `report`.
using StepDecisionFn = void(Stream&, const StepDecisionOptions&, const Tensor& plan,
                            const Tensor& sums, Tensor& history, Tensor& step, Tensor& table_step,
                            Tensor& report);

// worst f64 [1] = max(worst, largest load / mean load); a load of nothing counts as 0. load i64
// [E].
using LoadImbalanceFn = void(Stream&, const Tensor& load, Tensor& worst);

namespace cpu {
StepDecisionFn StepDecision;
LoadImbalanceFn LoadImbalance;
}  // namespace cpu
namespace gpu {
StepDecisionFn StepDecision;
LoadImbalanceFn LoadImbalance;
}  // namespace gpu

}  // namespace mneme
