// The sizes that the GPU's kernels are written for (kernels/limits.h), as their files check them.
#pragma once

#include "kernels/limits.h"

namespace mneme::gpu {

inline constexpr Limits kLimits = LimitsOf(Device::Kind::kGpu);
inline constexpr int kMostStreams = static_cast<int>(kLimits.streams);
inline constexpr int kMaxExperts = static_cast<int>(kLimits.experts);
inline constexpr int kMostChosen = static_cast<int>(kLimits.chosen);  // a lane each
inline constexpr int kMostBack = 64;  // tokens of an n-gram, as a configuration bounds them

}  // namespace mneme::gpu
