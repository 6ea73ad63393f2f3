// One update by itself, with what it tells: for tests that have no Stepper.
#pragma once

#include <array>
#include <limits>

#include "engine/update/optimizer.h"

namespace mneme::test {

struct UpdateReport {
  double grad_norm = 0.0;
  double table_grad_norm = 0.0;
  bool skipped = false;
  double load_imbalance = 0.0;
};

// Update number `update` (from 1) at `rate`; a loss that is not ok is not finite.
inline UpdateReport HostStep(Optimizer& optimizer, Context& context, int64_t update, double rate,
                             bool loss_ok = true) {
  optimizer.SetHistory(context, update - 1, {});
  const std::array<double, kPlanScalars> plan = {rate, 1.0};
  std::array<double, kSumScalars> sums{};
  if (!loss_ok) sums[kSumLosses] = std::numeric_limits<double>::infinity();
  const auto lift = [&](const double* from, int64_t n) {
    Tensor t = Tensor::Empty(context.stream, DType::kF64, {n});
    Upload(context.stream, from, t.bytes(), t);
    return t;
  };
  Tensor sums_there = lift(sums.data(), kSumScalars);
  Tensor report = Tensor::Zeros(context.stream, DType::kF64, {kStepReportScalars});
  optimizer.Step(context, lift(plan.data(), kPlanScalars), sums_there, report);
  std::array<double, kStepReportScalars> told{};
  Download(context.stream, report, told.data(), report.bytes());
  return {told[kReportGradNorm], told[kReportTableGradNorm], told[kReportSkipped] != 0.0,
          told[kReportImbalance]};
}

}  // namespace mneme::test
