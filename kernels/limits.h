// The largest sizes that the ops of a device take. What the configuration asks for is held against
// them before anything runs, and by a plan for a device that is not there.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/core/device.h"
#include "kernels/ops/table.h"

namespace mneme {

struct Limits {
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t streams = kNone;        // of mHC
  int64_t experts = kNone;        // of a router
  int64_t chosen = kNone;         // experts of a token
  int64_t micro_batches = kNone;  // of an update of Engram tables
};

constexpr Limits LimitsOf(Device::Kind kind) {
  if (kind == Device::Kind::kCpu) return {};
  return {.streams = 8, .experts = 512, .chosen = 32, .micro_batches = kMostParts};
}

}  // namespace mneme
