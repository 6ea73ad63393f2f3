// A queue of work on a device. Every op takes one; nothing is ordered by anything else.
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/driver.h"
#include "kernels/core/memory.h"

namespace mneme {

// On the CPU a stream runs each op at once, on the calling thread (and its OpenMP team); on a GPU
// an op returns when its kernels are queued. Owned by the machine (engine/machine.h); not copied.
class Stream {
 public:
  Stream(Device device, Allocator& allocator)
      : device_(device),
        driver_(DriverOf(device)),
        allocator_(allocator),
        queue_(driver_.open_queue(device.index)) {}
  ~Stream() { driver_.close_queue(queue_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const Device& device() const { return device_; }
  const Driver& driver() const { return driver_; }
  Allocator& allocator() { return allocator_; }
  void* queue() const { return queue_; }  // the backend's own (kernels/gpu/queue.h)
  // Returns when all queued work is done.
  void Synchronize() { driver_.synchronize(queue_); }

 private:
  Device device_;
  const Driver& driver_;
  Allocator& allocator_;
  void* queue_;
};

}  // namespace mneme
