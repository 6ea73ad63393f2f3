// Work recorded once and replayed: a whole training step as one launch.
#pragma once

#include <utility>

#include "kernels/core/stream.h"

namespace mneme {

// The kernels that a function queues, with the addresses that they use: the pool must hand out the
// same memory, so a function is recorded after it has run, and everything that changes from replay
// to replay lives in device memory that is written before. While one lives, what is taken from the
// pool may lie where it writes, and so may not outlive the next replay. Movable; borrows the
// stream.
class Graph {
 public:
  Graph() = default;  // nothing is recorded
  Graph(Graph&& other) noexcept { *this = std::move(other); }
  Graph& operator=(Graph&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(record_, other.record_);
    return *this;
  }
  ~Graph() {
    if (record_ != nullptr) stream_->driver().release_record(record_);
  }

  static bool Supported(const Stream& stream) { return stream.driver().begin_record != nullptr; }
  // Records what `work` queues without running it, one such call at a time in a process. REQUIRES:
  // Supported; `work` neither waits for the device or for a thread that records, nor makes the pool
  // ask the driver for memory.
  template <class F>
  static Graph Record(Stream& stream, F&& work) {
    Graph graph;
    graph.stream_ = &stream;
    stream.driver().begin_record(stream.queue());
    work();
    graph.record_ = stream.driver().end_record(stream.queue());
    return graph;
  }

  bool defined() const { return record_ != nullptr; }
  // Queues it once more, as one launch. REQUIRES: defined().
  void Replay() { stream_->driver().replay(stream_->queue(), record_); }

 private:
  Stream* stream_ = nullptr;
  void* record_ = nullptr;
};

}  // namespace mneme
