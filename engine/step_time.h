// Seconds of a rehearsed step at the rates of a device (pure arithmetic).
#pragma once

#include <array>

#include "configs/device_rates.h"
#include "engine/rehearsal.h"

namespace mneme {

struct StepTime {
  std::array<double, kWorks> forward_backward{};
  std::array<double, kWorks> update{};
  double calls = 0.0;     // what an op costs beside its work
  double exchange = 0.0;  // with other ranks, nothing hidden behind work

  double total() const;
};

// `threads`: of a rank on a CPU; a GPU is one.
StepTime PredictStepTime(const Rehearsal& rehearsal, const DeviceRates& rates, int threads);

// OpenMP threads of this rank.
int Threads();

}  // namespace mneme
