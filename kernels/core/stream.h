// A queue of work on a device. Every op takes one; nothing is ordered by anything else.
#pragma once

#include <memory>

#include "kernels/core/device.h"
#include "kernels/core/driver.h"
#include "kernels/core/memory.h"

namespace mneme {

class Side;

// On the CPU a stream runs each op at once, on the calling thread (and its OpenMP team); on a GPU
// an op returns when its kernels are queued. Owned by the machine (engine/machine/machine.h); not
// copied.
class Stream {
 public:
  enum class Role { kMain, kSide };

  // Opens a queue of the device. kSide: only by Side, on the same device and allocator as the
  // stream that it stands beside. The allocator is borrowed and outlives the stream.
  Stream(Device device, Allocator& allocator, Role role = Role::kMain);
  ~Stream();  // waits for what is queued
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const Device& device() const { return device_; }
  const Driver& driver() const { return driver_; }
  Allocator& allocator() { return allocator_; }
  void* queue() const { return queue_; }  // the backend's own (kernels/gpu/queue.h)
  // Returns when all queued work is done.
  void Synchronize() { driver_.synchronize(queue_); }

  // Exchanges beside it (kernels/core/side.h); made when it is first asked for.
  Side& side();
  bool is_side() const { return role_ == Role::kSide; }

 private:
  Device device_;
  const Driver& driver_;
  Allocator& allocator_;
  const Role role_;
  void* queue_;
  std::unique_ptr<Side> side_;
};

}  // namespace mneme
