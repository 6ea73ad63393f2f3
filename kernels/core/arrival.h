// A few numbers on their way to the host: counts that the host must know, but not at once.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/types/span.h"
#include "kernels/core/check.h"
#include "kernels/core/tensor.h"

namespace mneme {

// Sets out when it is made. What is queued after that does not delay it. Movable; borrows the
// stream, and is used by its thread.
class Arrival {
 public:
  // Nothing is on its way.
  Arrival() = default;
  // Reads x, i64, in the order of the stream; x may go when this returns. REQUIRES: 0 < x.bytes()
  // <= Driver::kMostSent.
  Arrival(Stream& stream, const Tensor& x) : stream_(&stream), count_(x.elements()) {
    CHECK_GT(count_, 0);
    CHECK_LE(x.bytes(), Driver::kMostSent);
    sent_ = stream.driver().send(stream.queue(), x.data<int64_t>(), x.bytes());
  }
  Arrival(Arrival&& other) noexcept { *this = std::move(other); }
  Arrival& operator=(Arrival&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(count_, other.count_);
    std::swap(sent_, other.sent_);
    return *this;
  }
  // Not waited for: waits, and lets the bytes go.
  ~Arrival() {
    if (sent_ != nullptr) Receive({});
  }

  // Returns when the tensor's numbers are in `host`. Once. REQUIRES: something is on its way, and
  // `host` is as long as it.
  void Wait(absl::Span<int64_t> host) {
    CHECK(sent_ != nullptr);
    CHECK_EQ(static_cast<int64_t>(host.size()), count_);
    Receive(host);
  }

 private:
  void Receive(absl::Span<int64_t> host) {
    stream_->driver().receive(stream_->queue(), std::exchange(sent_, nullptr), host.data(),
                              static_cast<int64_t>(host.size() * sizeof(int64_t)));
  }

  Stream* stream_ = nullptr;
  int64_t count_ = 0;
  void* sent_ = nullptr;  // the driver's; null: nothing is on its way
};

}  // namespace mneme
