#include "engine/forecast/step_time.h"

#include <omp.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "kernels/core/driver.h"

namespace mneme {
namespace {

// part += factor (to - from)
void Add(double factor, const Moment& from, const Moment& to, std::array<double, kWorks>& part) {
  for (size_t i = 0; i < kWorks; ++i) part[i] += factor * (to.work[i] - from.work[i]);
}

}  // namespace

double StepTime::Sum(const std::array<double, kWorks>& parts) {
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

double StepTime::total() const { return Sum(forward_backward) + Sum(update) + calls + exchange; }

StepTime PredictStepTime(const Rehearsal& rehearsal, const DeviceRates& rates, int threads) {
  threads = rates.kind == "cpu" ? std::max(1, threads) : 1;
  StepTime time;
  const std::vector<Moment> laps = Play(rehearsal.timeline, rates, threads);
  if (laps.size() < 2) return time;
  // Micro-batches that were not rehearsed are like those before the last one.
  const size_t rehearsed = laps.size() - 1;
  const Moment begin, &middle = laps[rehearsed > 1 ? rehearsed - 2 : 0];
  const Moment &last = laps[rehearsed - 1], &end = laps[rehearsed];
  const double more =
      rehearsed > 1
          ? static_cast<double>(rehearsal.micro_batches - static_cast<int64_t>(rehearsed)) /
                static_cast<double>(rehearsed - 1)
          : 0.0;
  Add(1.0, begin, last, time.forward_backward);
  Add(more, begin, middle, time.forward_backward);
  Add(1.0, last, end, time.update);
  time.calls = end.calls + more * middle.calls;
  time.exchange = end.waiting() + more * middle.waiting();
  return time;
}

absl::StatusOr<DeviceRates> RatesOf(const Device& device) {
  return MatchDeviceRates(device.is_cpu() ? "cpu" : DriverOf(device).info(device.index).name);
}

std::vector<double> PredictStageSeconds(const RunConfig& config, const Layout& layout,
                                        int64_t vocabulary, const Device& device, int64_t shrink) {
  std::vector<double> seconds;
  const absl::StatusOr<DeviceRates> rates = RatesOf(device);
  if (!rates.ok()) return seconds;
  for (const StageConfig& stage : config.stages) {
    const Rehearsal rehearsal = Rehearse(config, stage, layout, vocabulary, device, shrink);
    seconds.push_back(PredictStepTime(rehearsal, *rates, Threads()).total());
  }
  return seconds;
}

int Threads() { return omp_get_max_threads(); }

}  // namespace mneme
