// Bytes between the members of a group: all that differs between threads and MPI. Comm and World
// are written once on top of it, so both give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "parallel/pulse.h"

namespace mneme {

struct SendBlock {
  const void* data = nullptr;
  int64_t bytes = 0;
};
struct ReceiveBlock {
  void* data = nullptr;
  int64_t bytes = 0;
};

// One object a member, used by one thread. Every member makes the same calls in the same order.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Member r is sent send[r] and receives into recv[r] what r sent here; both sides know the sizes.
  // The entry of this member itself is ignored: the caller copies. Blocks may be of any size, more
  // than 2 GiB too. Memory that is sent must not be written before the call returns.
  virtual void Exchange(absl::Span<const SendBlock> send, absl::Span<const ReceiveBlock> recv) = 0;
  // Returns when all members have come to it.
  virtual void Barrier() = 0;
  // The members with equal `color`, ordered by (key, rank); shown nowhere until ShowIn. Collective
  // over this group; may outlive it.
  virtual std::unique_ptr<Transport> Split(int color, int key) = 0;

  // Where calls over this group are noted, and on which axis. Null: nowhere. The pulse is borrowed.
  void ShowIn(Pulse* pulse, Axis axis) {
    pulse_ = pulse;
    axis_ = axis;
  }
  Pulse* pulse() const { return pulse_; }
  Axis axis() const { return axis_; }

 private:
  Pulse* pulse_ = nullptr;
  Axis axis_ = Axis::kOther;
};

// A group of one.
std::unique_ptr<Transport> MakeSoloTransport();

// n transports of n threads of this process, by rank; each is handed to its thread. A thread that
// does not come to a call leaves the others waiting.
std::vector<std::unique_ptr<Transport>> MakeThreadTransports(int ranks);

}  // namespace mneme
