// How much memory this host, or the container around this process, still has.
#pragma once

#include <cstdint>
#include <string>

namespace mneme {

struct HostMemory {
  int64_t available = 0;  // bytes that can be taken without swapping
  std::string source;     // who says so: "/proc/meminfo", or the file of a control group
};

// The smallest of what the kernel and every control group around this process leave. Files that are
// absent limit nothing. `root` stands before all paths, for tests.
HostMemory ReadHostMemory(const std::string& root = "");

}  // namespace mneme
