#include "kernels/ops/step.h"

#include <algorithm>
#include <cmath>

namespace mneme::cpu {
namespace {

double At(const Tensor& t, int place) {
  CHECK_LT(int64_t{place}, t.elements());
  return t.data<double>()[place];
}

// Whether the loss is one to learn from. The window is read oldest first.
bool Acceptable(const StepDecisionOptions& o, double loss, const Tensor& history) {
  if (!std::isfinite(loss)) return !o.skip_nonfinite;
  const int64_t count = static_cast<int64_t>(At(history, kHistoryLosses));
  if (o.outlier_sigma <= 0.0 || count < o.window) return true;
  const double* ring = history.data<double>() + kHistoryRing;
  const int64_t oldest = static_cast<int64_t>(At(history, kHistoryPosition));
  const double n = static_cast<double>(count);
  double sum = 0.0;
  double squares = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += ring[(oldest + i) % o.window];
  const double mean = sum / n;
  for (int64_t i = 0; i < count; ++i) {
    const double off = ring[(oldest + i) % o.window] - mean;
    squares += off * off;
  }
  return loss <= mean + o.outlier_sigma * std::sqrt(squares / n);
}

void Remember(double loss, int64_t window, Tensor& history) {
  double* h = history.data<double>();
  h[kHistoryUpdates] += 1;
  // One loss without a value would leave the window without a mean for as long as it stands there.
  if (window == 0 || !std::isfinite(loss)) return;
  const int64_t position = static_cast<int64_t>(h[kHistoryPosition]);
  h[kHistoryRing + position] = loss;
  h[kHistoryPosition] = static_cast<double>((position + 1) % window);
  h[kHistoryLosses] = std::min(h[kHistoryLosses] + 1, static_cast<double>(window));
}

// min(1, max / norm); 1 where clipping is off.
double ClipScale(double max_norm, double norm) {
  return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

void Assign(double rate, double clip, bool apply, double beta1, double beta2, double update,
            Tensor& step) {
  CHECK_EQ(step.elements(), int64_t{kStepScalars});
  double* s = step.data<double>();
  s[kStepRate] = rate;
  s[kStepBias1] = 1.0 - std::pow(beta1, update);
  s[kStepBias2] = 1.0 - std::pow(beta2, update);
  s[kStepClip] = clip;
  s[kStepApply] = apply ? 1.0 : 0.0;
}

}  // namespace

void StepDecision(Stream&, const StepDecisionOptions& o, const Tensor& plan, const Tensor& sums,
                  Tensor& history, Tensor& step, Tensor& table_step, Tensor& report) {
  CHECK_EQ(plan.elements(), int64_t{kPlanScalars});
  CHECK_EQ(sums.elements(), int64_t{kSumScalars});
  CHECK_EQ(history.elements(), kHistoryRing + o.window);
  CHECK_EQ(report.elements(), int64_t{kReportScalars});
  const double counted = At(plan, kPlanCounted);
  const double loss = counted > 0 ? At(sums, kSumLosses) / counted : 0.0;
  const double dense = At(sums, kSumDense);
  const double tables = At(sums, kSumTables);
  const double all = std::sqrt(dense + tables);
  const double norm = o.tables_in_norm ? all : std::sqrt(dense);
  const bool skipped = !Acceptable(o, loss, history) || (o.skip_nonfinite && !std::isfinite(all));
  const double update = At(history, kHistoryUpdates) + 1;
  const double clip = ClipScale(o.clip, norm);
  const double rate = At(plan, kPlanRate);
  Assign(rate, clip, !skipped, o.beta1, o.beta2, update, step);
  Assign(rate, clip, !skipped, o.table_beta1, o.table_beta2, update, table_step);
  if (!skipped) Remember(loss, o.window, history);
  double* r = report.data<double>();
  r[kReportLoss] = loss;
  r[kReportBalance] = At(sums, kSumBalance);
  r[kReportGradNorm] = norm;
  r[kReportTableGradNorm] = std::sqrt(tables);
  r[kReportSkipped] = skipped ? 1.0 : 0.0;
}

void LoadImbalance(Stream&, const Tensor& load, Tensor& worst) {
  const int64_t* loads = load.data<int64_t>();
  const int64_t experts = load.elements();
  int64_t sum = 0;
  int64_t largest = 0;
  for (int64_t e = 0; e < experts; ++e) {
    sum += loads[e];
    largest = std::max(largest, loads[e]);
  }
  double* to = worst.data<double>();
  if (sum == 0) {
    *to = std::max(*to, 0.0);
    return;
  }
  *to = std::max(
      *to, static_cast<double>(largest) * static_cast<double>(experts) / static_cast<double>(sum));
}

}  // namespace mneme::cpu
