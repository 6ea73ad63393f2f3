#include "kernels/core/stream.h"

#include "kernels/core/side.h"

namespace mneme {

Stream::Stream(Device device, Allocator& allocator, Role role)
    : device_(device),
      driver_(DriverOf(device)),
      allocator_(allocator),
      role_(role),
      queue_(role == Role::kSide ? driver_.open_side(device.index)
                                 : driver_.open_queue(device.index)) {}

Stream::~Stream() {
  side_.reset();
  driver_.close_queue(queue_);
}

Side& Stream::side() {
  if (side_ == nullptr) side_ = std::make_unique<Side>(*this);
  return *side_;
}

}  // namespace mneme
