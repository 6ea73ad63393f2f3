// Seconds of a rehearsed step at the rates of a device (pure arithmetic).
#pragma once

#include <array>
#include <vector>

#include "configs/device_rates.h"
#include "engine/forecast/rehearsal.h"

namespace mneme {

struct StepTime {
  std::array<double, kWorks> forward_backward{};
  std::array<double, kWorks> update{};
  double calls = 0.0;     // what an op costs beside its work
  double exchange = 0.0;  // what other ranks, and a host that queues op by op, add to that

  double total() const;
  static double Sum(const std::array<double, kWorks>& parts);
};

// `threads`: of a rank on a CPU; a GPU is one.
StepTime PredictStepTime(const Rehearsal& rehearsal, const DeviceRates& rates, int threads);

// The shipped rates of a device of this machine; NotFound.
absl::StatusOr<DeviceRates> RatesOf(const Device& device);

// Of each stage of a run on this device, at its shipped rates; empty where none are shipped for it.
// `shrink`: of micro-batches (WantedMicroBatch).
std::vector<double> PredictStageSeconds(const RunConfig& config, const Layout& layout,
                                        int64_t vocabulary, const Device& device, int64_t shrink);

// OpenMP threads of this rank.
int Threads();

}  // namespace mneme
