// Where the time of a step goes, by part: moments of a queue of work, marked where one part of the
// model ends and another begins.
//
// On a GPU a moment is when the queue passes it, not when the host does: what the queue waits for
// (another rank, the host) counts to the part that it waits in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/core/stream.h"

namespace mneme {

enum class Part : uint8_t {
  kHead,  // embedding, last norm, head and loss, and what is in no other part
  kAttention,
  kFeedForward,  // dense ones, routers, shared and routed experts
  kStreams,      // mHC
  kMemory,       // Engram: addresses, projections, gates, convolution
  kExchange,     // tokens and rows to their owners and back, with what deals and adds them
  kReduce,       // from here on the update: gradients to their owners
  kClip,         // the norm of all gradients, what follows from it, router biases, zeros
  kMuon,
  kAdamW,
  kTables,  // gradients of rows, and their Adam
  kGather,  // moved weights from their owners
};
inline constexpr size_t kParts = 12;
inline constexpr size_t kFirstOfUpdate = static_cast<size_t>(Part::kReduce);
const char* Name(Part part);  // "attention"

// How a device marks moments.
struct Marker {
  // `used`: a mark that is read already, to be used again; or null.
  void* (*mark)(void* queue, void* used);
  // Between two moments that the queue has passed.
  double (*seconds)(void* from, void* to);
  void (*release)(void* mark);
};
const Marker& CpuMarker();
const Marker* GpuMarker();  // nullptr in a build without CUDA

// Borrows the stream; used by its thread. Not inside of recorded work.
class PartClock {
 public:
  using Seconds = std::array<double, kParts>;

  explicit PartClock(Stream& stream);
  ~PartClock();
  PartClock(const PartClock&) = delete;
  PartClock& operator=(const PartClock&) = delete;

  // A step begins, in kHead.
  void Begin();
  // Returns the part before. Between Begin and End.
  Part Enter(Part part);
  // The step's end: seconds by part. Waits for the stream.
  Seconds End();

 private:
  void Mark(Part part);

  Stream& stream_;
  const Marker& marker_;
  Part part_ = Part::kHead;
  bool runs_ = false;
  std::vector<std::pair<void*, Part>> marks_;  // of this step: from here on it is that part
  std::vector<void*> used_;
};

// What a layer queues from here to the end of the block belongs to `part`. `clock` may be null.
class InPart {
 public:
  InPart(PartClock* clock, Part part) : clock_(clock) {
    if (clock_ != nullptr) before_ = clock_->Enter(part);
  }
  ~InPart() {
    if (clock_ != nullptr) clock_->Enter(before_);
  }
  InPart(const InPart&) = delete;
  InPart& operator=(const InPart&) = delete;

 private:
  PartClock* clock_;
  Part before_ = Part::kHead;
};

}  // namespace mneme
