// Pure: update number within a stage -> learning rate.
#pragma once

#include <cstdint>

#include "configs/optim.h"

namespace mneme {

// Rate of update u = 1 .. steps of a stage with peak rate `peak` (docs/mathematics.md): warm-up
// peak · min(1, u / warmup); step: factor decay_to[i] for u > decay_at[i] · steps; cosine and wsd
// fall from the end of the warm-up / from `stable` to `final`.
double LearningRate(const ScheduleConfig& schedule, double peak, int64_t update, int64_t steps);

}  // namespace mneme
