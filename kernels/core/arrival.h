// A few numbers on their way to the host: counts that the host must know, but not at once.
#pragma once

#include <utility>

#include "kernels/core/tensor.h"

namespace mneme {

// Sets out when it is made. What is queued after that does not delay it. Movable; borrows the
// stream, and is used by its thread.
class Arrival {
 public:
  // Nothing is on its way.
  Arrival() = default;
  // Reads x in the order of the stream; x may go when this returns. REQUIRES: 0 < x.bytes() <=
  // Driver::kMostSent.
  Arrival(Stream& stream, const Tensor& x)
      : stream_(&stream),
        bytes_(x.bytes()),
        sent_(stream.driver().send(stream.queue(), x.raw(), x.bytes())) {
    CHECK_LE(bytes_, Driver::kMostSent);
  }
  Arrival(Arrival&& other) noexcept { *this = std::move(other); }
  Arrival& operator=(Arrival&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(bytes_, other.bytes_);
    std::swap(sent_, other.sent_);
    return *this;
  }
  // Not waited for: waits, and lets the bytes go.
  ~Arrival() {
    if (sent_ != nullptr) Receive(nullptr, 0);
  }

  // Returns when the tensor's bytes are in `host`, which has room for all of them. Once. REQUIRES:
  // something is on its way.
  void Wait(void* host) {
    CHECK(sent_ != nullptr);
    Receive(host, bytes_);
  }

 private:
  void Receive(void* host, int64_t bytes) {
    stream_->driver().receive(stream_->queue(), std::exchange(sent_, nullptr), host, bytes);
  }

  Stream* stream_ = nullptr;
  int64_t bytes_ = 0;
  void* sent_ = nullptr;  // the driver's; null: nothing is on its way
};

}  // namespace mneme
