// The device that a rank computes on.
#pragma once

#include <string>

namespace mneme {

struct Device {
  enum class Kind { kCpu, kGpu };
  Kind kind = Kind::kCpu;
  int index = 0;  // among the GPUs that this process sees
  // No such device: a step is rehearsed on it, of which nothing is computed (kernels/core/dry.h).
  bool dry = false;

  bool is_cpu() const { return kind == Kind::kCpu; }
  // "cpu", "gpu:1"; a dry device is called as the one that it stands for.
  std::string Name() const { return is_cpu() ? "cpu" : "gpu:" + std::to_string(index); }
};

}  // namespace mneme
