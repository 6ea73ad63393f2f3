// Rules across sections, all faults at once.
#pragma once

#include "absl/status/status.h"
#include "configs/run.h"

namespace mneme {

// Arithmetic that needs no data and no machine: layer lists inside the depth, d_mem divisible by orders x heads, top_k
// against experts and groups, even rotary width, decay lists, stages ... InvalidArgument with a line a fault, each with
// the numbers that disagree and what would be legal.
absl::Status Validate(const RunConfig& config);
// With the number of ranks: axes against the world, batch against ranks.
absl::Status ValidateForWorld(const RunConfig& config, int world);

}  // namespace mneme
