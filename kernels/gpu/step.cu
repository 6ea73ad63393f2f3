// What a step decides, and the worst load of an expert: one block each. Nothing here is bound by
// anything but the launch (about 3 µs): the numbers are a few hundred doubles.
#include <cmath>

#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/step.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;

// Whether the loss is one to learn from. All threads call and agree.
__device__ bool Acceptable(const StepDecisionOptions& o, double loss, const double* history) {
  const int64_t count = static_cast<int64_t>(history[kHistoryLosses]);
  if (!isfinite(loss)) return !o.skip_nonfinite;
  if (o.outlier_sigma <= 0 || count < o.window) return true;
  const double* ring = history + kHistoryRing;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += ring[i];
  const double mean = BlockReduce(sum) / static_cast<double>(count);
  double squares = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    squares += (ring[i] - mean) * (ring[i] - mean);
  }
  const double variance = BlockReduce(squares) / static_cast<double>(count);
  return loss <= mean + o.outlier_sigma * sqrt(variance);
}

__device__ void Remember(double loss, int64_t window, double* history) {
  history[kHistoryUpdates] += 1;
  // One loss without a value would leave the window without a mean for as long as it stands there.
  if (window == 0 || !isfinite(loss)) return;
  const int64_t position = static_cast<int64_t>(history[kHistoryPosition]);
  history[kHistoryRing + position] = loss;
  history[kHistoryPosition] = static_cast<double>((position + 1) % window);
  history[kHistoryLosses] = fmin(history[kHistoryLosses] + 1, static_cast<double>(window));
}

__device__ void Assign(double rate, double clip, bool apply, double beta1, double beta2,
                       double update, double* step) {
  step[kStepRate] = rate;
  step[kStepBias1] = 1 - pow(beta1, update);
  step[kStepBias2] = 1 - pow(beta2, update);
  step[kStepClip] = clip;
  step[kStepApply] = apply ? 1 : 0;
}

__global__ void StepDecisionKernel(StepDecisionOptions o, const double* plan, const double* sums,
                                   double* history, double* step, double* table_step,
                                   double* report) {
  const double counted = plan[kPlanCounted];
  const double loss = counted > 0 ? sums[kSumLosses] / counted : 0;
  const double all = sqrt(sums[kSumDense] + sums[kSumTables]);
  const double norm = o.tables_in_norm ? all : sqrt(sums[kSumDense]);
  const bool acceptable = Acceptable(o, loss, history);
  if (threadIdx.x != 0) return;
  const bool skipped = !acceptable || (o.skip_nonfinite && !isfinite(all));
  const double clip = o.clip > 0 && norm > o.clip ? o.clip / norm : 1;
  const double update = history[kHistoryUpdates] + 1;
  Assign(plan[kPlanRate], clip, !skipped, o.beta1, o.beta2, update, step);
  Assign(plan[kPlanRate], clip, !skipped, o.table_beta1, o.table_beta2, update, table_step);
  if (!skipped) Remember(loss, o.window, history);
  report[kReportLoss] = loss;
  report[kReportBalance] = sums[kSumBalance];
  report[kReportGradNorm] = norm;
  report[kReportTableGradNorm] = sqrt(sums[kSumTables]);
  report[kReportSkipped] = skipped ? 1 : 0;
}

__global__ void LoadImbalanceKernel(const int64_t* load, int64_t experts, double* worst) {
  long long mine = 0;
  long long most = 0;
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
    mine += load[e];
    most = load[e] > most ? load[e] : most;
  }
  const long long sum = BlockReduce(mine);
  const long long largest = BlockReduce(most, 0ll, Larger{});
  if (threadIdx.x != 0 || sum == 0) return;
  const double here =
      static_cast<double>(largest) * static_cast<double>(experts) / static_cast<double>(sum);
  if (here > *worst) *worst = here;
}

}  // namespace

void StepDecision(Stream& stream, const StepDecisionOptions& o, const Tensor& plan,
                  const Tensor& sums, Tensor& history, Tensor& step, Tensor& table_step,
                  Tensor& report) {
  CHECK_EQ(plan.elements(), int64_t{kPlanScalars});
  CHECK_EQ(sums.elements(), int64_t{kSumScalars});
  CHECK_EQ(history.elements(), kHistoryRing + o.window);
  CHECK_EQ(step.elements(), int64_t{kStepScalars});
  CHECK_EQ(table_step.elements(), int64_t{kStepScalars});
  CHECK_EQ(report.elements(), int64_t{kReportScalars});
  Launch(stream, StepDecisionKernel, 1, kThreads, 0, o, Data<double>(plan), Data<double>(sums),
         Data<double>(history), Data<double>(step), Data<double>(table_step), Data<double>(report));
}

void LoadImbalance(Stream& stream, const Tensor& load, Tensor& worst) {
  Launch(stream, LoadImbalanceKernel, 1, kThreads, 0, Data<int64_t>(load), load.elements(),
         Data<double>(worst));
}

}  // namespace mneme::gpu
