// GPUs of one host that write into each other's memory: what the direct exchanges between ranks
// (parallel/peer_comm.h) are made of. On GPUs only.
//
// Every member of a group has a *mailbox*, a block of its device's memory that the others have
// opened, and may have shared a stretch of memory that its tensors lie in. A call is two kernels
// on a queue, of all members, in the same order:
//
// 1. rendezvous: each tells the others how many rows it sends to whom, and where in its stretch
//    rows may be put. One small block waits for the others' word.
// 2. put: each writes its rows, every row once, to its place in the memory of its destination, and
//    waits until the others have done the same.
//
// So a member's memory is written from its rendezvous to the end of its put and at no other time,
// in the order of its queue, as if it had received. What does not lie in the stretch comes through
// a bounce buffer of the mailbox, in pieces, slowly. The number of a call stands in the mailbox,
// so that calls may be recorded (kernels/core/graph.h). The kernels wait for a member for as long
// as its process takes, and end with theirs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace mneme {

inline constexpr int kMostPeers = 16;
inline constexpr int kMostPutTensors = 3;

// What another process of the host opens a block by.
using PeerHandle = std::array<char, 64>;

// A group as one member sees it; addresses are those at which this process reaches them.
struct PeerGroup {
  int members = 0;
  int me = 0;
  std::array<void*, kMostPeers> mailboxes{};
  std::array<void*, kMostPeers> stretches{};  // null: not shared
  int blocks = 0;                             // of a put, at least 2 members: multiprocessors
};

// Where rows that come may be put: for each tensor the bytes from the beginning of this member's
// stretch.
struct PeerRoom {
  bool in_stretch = false;
  int64_t rows = 0;
  std::array<int64_t, kMostPutTensors> offsets{};
};

// What is put of one tensor: rows for member r stand behind those for the members before it, and
// those that come from it likewise. row_bytes is at most kMostPutRow.
struct PeerRows {
  const void* in = nullptr;
  void* out = nullptr;
  int64_t row_bytes = 0;
};
inline constexpr int64_t kMostPutRow = int64_t{1} << 20;

struct PeerDriver {
  // REQUIRES: `block` is what Driver::allocate returned. Whether the driver lets others open it;
  // `why` says why not, in its words.
  bool (*share)(void* block, PeerHandle* handle, std::string* why);
  // The block of another process; nullptr where this device does not reach it, and `why` says so
  // in the driver's words. Its owner frees it when all have closed it.
  void* (*open)(int device, const PeerHandle& handle, std::string* why);
  void (*close)(void* opened);
  // The block that the driver has given and `at` lies in: its beginning and its bytes.
  std::pair<void*, int64_t> (*block_of)(const void* at);
  // A mailbox before its group's first call; nullptr where the device has no such memory left.
  void* (*make_mailbox)(int device);
  void (*free_mailbox)(void* mailbox);
  // Returns when the device has done all that it was given.
  void (*settle)(int device);

  // Counts that the host knows: rows to and from each member.
  void (*rendezvous)(Stream& stream, const PeerGroup& group, const PeerRoom& room,
                     absl::Span<const int64_t> send, absl::Span<const int64_t> recv);
  // Counts that were made on the device: leaving i64 [members, 2] rows and pairs to each member.
  // told i64 [2 members + 1, 2]: the same, then rows and pairs from each, then whether every
  // member's room is in its stretch and holds what comes to it: the same on all. Where it does not
  // hold, put moves nothing.
  void (*rendezvous_counted)(Stream& stream, const PeerGroup& group, const PeerRoom& room,
                             const Tensor& leaving, Tensor& told);
  // Follows a rendezvous on the same queue. The same numbers of rows of each tensor, at most
  // kMostPutTensors. index, i32 or null: row i of the first one is in[index[i]].
  void (*put)(Stream& stream, const PeerGroup& group, absl::Span<const PeerRows> rows,
              const int32_t* index);
};

const PeerDriver* GpuPeers();  // nullptr in a build without CUDA

}  // namespace mneme
