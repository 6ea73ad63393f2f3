#include "engine/update/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mneme {
namespace {

// Share of the peak after `decay_at[i]` of the stage: the last drop that has passed counts.
double StepFactor(const ScheduleConfig& schedule, int64_t update, int64_t steps) {
  double factor = 1.0;
  const size_t drops = std::min(schedule.decay_at.size(), schedule.decay_to.size());
  for (size_t i = 0; i < drops; ++i) {
    if (static_cast<double>(update) > schedule.decay_at[i] * static_cast<double>(steps)) {
      factor = schedule.decay_to[i];
    }
  }
  return factor;
}

// How far `update` is on its way from `begin` to `end`, in [0, 1].
double Progress(double update, double begin, double end) {
  return end > begin ? std::clamp((update - begin) / (end - begin), 0.0, 1.0) : 1.0;
}

}  // namespace

double LearningRate(const ScheduleConfig& schedule, double peak, int64_t update, int64_t steps) {
  const double u = static_cast<double>(update);
  const double n = static_cast<double>(steps);
  const double warmup = static_cast<double>(schedule.warmup);
  if (update < schedule.warmup) return peak * u / warmup;
  if (schedule.shape == "step") return peak * StepFactor(schedule, update, steps);
  if (schedule.shape == "cosine") {
    const double wave = 0.5 * (1.0 + std::cos(std::numbers::pi * Progress(u, warmup, n)));
    return peak * (schedule.final + (1.0 - schedule.final) * wave);
  }
  if (schedule.shape == "wsd") {
    const double begin = std::max(schedule.stable * n, warmup);
    if (u <= begin) return peak;
    return peak * (1.0 - (1.0 - schedule.final) * Progress(u, begin, n));
  }
  return peak;
}

}  // namespace mneme
