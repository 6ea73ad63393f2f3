#include "engine/step_time.h"

#include <omp.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "kernels/core/driver.h"

namespace mneme {
namespace {

const WorkRate& RateOf(const WorkRates& rates, Work work) {
  switch (work) {
    case Work::kMatmul:
      return rates.matmul;
    case Work::kExperts:
      return rates.experts;
    case Work::kAttention:
      return rates.attention;
    case Work::kAttentionGrad:
      return rates.attention_grad;
    case Work::kHead:
      return rates.head;
    case Work::kStreams:
      return rates.streams;
    case Work::kNorms:
      return rates.norms;
    case Work::kRouting:
      return rates.routing;
    case Work::kMemory:
      return rates.memory;
    case Work::kTables:
      return rates.tables;
    case Work::kOptimizer:
      return rates.optimizer;
    case Work::kOrthogonal:
      return rates.orthogonal;
  }
  return rates.matmul;
}

double Quotient(double work, double rate) { return rate > 0.0 ? work / rate : 0.0; }

// Adds the ops' own costs to `calls`.
std::array<double, kWorks> Seconds(const std::array<WorkDone, kWorks>& done,
                                   const DeviceRates& rates, int threads, double& calls) {
  std::array<double, kWorks> seconds{};
  for (size_t i = 0; i < kWorks; ++i) {
    const WorkRate& rate = RateOf(rates.rates, static_cast<Work>(i));
    seconds[i] = (Quotient(done[i].flops, rate.flops) + Quotient(done[i].bytes, rate.bytes)) /
                 static_cast<double>(threads);
    calls += static_cast<double>(done[i].calls) * rates.call_seconds;
  }
  return seconds;
}

}  // namespace

double StepTime::Sum(const std::array<double, kWorks>& parts) {
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

double StepTime::total() const { return Sum(forward_backward) + Sum(update) + calls + exchange; }

StepTime PredictStepTime(const Rehearsal& rehearsal, const DeviceRates& rates, int threads) {
  threads = rates.kind == "cpu" ? std::max(1, threads) : 1;
  StepTime time;
  time.forward_backward = Seconds(rehearsal.forward_backward, rates, threads, time.calls);
  time.update = Seconds(rehearsal.update, rates, threads, time.calls);
  const SentBytes& sent = rehearsal.sent;
  time.exchange =
      Quotient(static_cast<double>(sent.experts + sent.rows + sent.gradients), rates.link);
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
