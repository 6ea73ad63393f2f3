// Memory of a device that several runs of one process share.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/device.h"

namespace mneme {

// Each run is planned as if it had all that is free before the first of them begins: what memory
// makes it give up (memory_fit.h) is then what it gives up alone, and so its numbers are the same.
// Then it takes what it needs, in the order of the runs, or hears that those before it leave too
// little. Thread-safe.
class DeviceRoom {
 public:
  // free: bytes of every device, for tests; else they are looked up.
  explicit DeviceRoom(int runs, std::optional<int64_t> free = std::nullopt);

  // Bytes that were free before any run took some, below 0 where that is not known: what `look`
  // says the first time.
  int64_t Free(const Device& device, const std::function<int64_t()>& look);
  // Waits until the runs before `run` have taken or left. False where what they hold of `device`
  // leaves less than `bytes`; the first of a device always has its room.
  bool Take(int run, const Device& device, int64_t bytes);
  // What others hold of `device`.
  int64_t HeldByOthers(int run, const Device& device) const;
  // By whoever has asked for `run`, when it has ended: it holds nothing.
  void Leave(int run);
  bool refused(int run) const;

 private:
  struct Run {
    bool asked = false;  // or left without asking
    bool refused = false;
    std::string device;
    int64_t bytes = 0;
  };
  int64_t HeldByOthersLocked(int run, const std::string& device) const;

  mutable std::mutex mutex_;
  std::condition_variable turn_;
  std::vector<Run> runs_;
  const std::optional<int64_t> given_;
  std::map<std::string, int64_t> free_;  // by the device's name
};

}  // namespace mneme
