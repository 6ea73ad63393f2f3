// A queue of work on a device. Every op takes one; nothing is ordered by anything else.
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/memory.h"

namespace mneme {

// On the CPU a stream runs each op at once, on the calling thread (and its OpenMP team). Owned by
// Context; not copied.
class Stream {
 public:
  Stream(Device device, Allocator& allocator) : device_(device), allocator_(allocator) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const Device& device() const { return device_; }
  Allocator& allocator() { return allocator_; }
  // Returns when all queued work is done.
  void Synchronize() {}

 private:
  Device device_;
  Allocator& allocator_;
};

}  // namespace mneme
