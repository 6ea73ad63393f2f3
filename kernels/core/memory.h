// Where tensors come from: a caching pool per rank, tagged so that a memory report can say who
// holds what.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/driver.h"
#include "kernels/core/ranges.h"

namespace mneme {

// What a block is for: rows of the memory report.
enum class MemoryTag : uint8_t {
  kParameters,
  kGradients,
  kOptimizer,
  kTables,
  kActivations,
  kExchange,
  kWorkspace,
  kOther,
};
inline constexpr int kMemoryTags = 8;
const char* Name(MemoryTag tag);  // "parameters", as the report has it

struct MemoryUse {
  int64_t live = 0;  // bytes handed out now
  int64_t peak = 0;  // most that `live` ever was
  int64_t then = 0;  // `live` at the moment when that of all tags together was the largest
};

// A pool of blocks of one device. Freed blocks are kept by size and handed out again, so that after
// the second step no request reaches the driver; the same sequence of requests gets the same
// addresses. What comes and goes on a GPU in large blocks of many sizes is better taken from one
// stretch (Reserve), where freed neighbours join. There small blocks (64 KiB and less) share slabs
// of 2 MiB: their sizes may differ from step to step, as lists of rows that are new do, and each of
// a new size would be the driver's. Blocks are 64-byte aligned (256 on a GPU). On a
// GPU a freed block may be handed out while queued work uses it: users of a pool share a stream,
// and what its side uses rests until it is joined (kernels/core/side.h). Thread-safe (a tensor may
// die on another thread). Out of memory prints Report() and exits 1.
class Allocator {
 public:
  explicit Allocator(Device device);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // From now on blocks of more than 64 KiB come from a stretch of `bytes` as long as it has room,
  // best fit. Once, for a GPU; kAnyLength for a device that holds nothing, to learn how long it
  // must be (reserved_high).
  void Reserve(int64_t bytes);
  static constexpr int64_t kAnyLength = int64_t{1} << 60;
  int64_t reserved_high() const;  // what of it was ever used

  // REQUIRES: bytes >= 0. The block is not initialised.
  void* Allocate(int64_t bytes, MemoryTag tag);
  // What Allocate returned, with the same bytes and tag. of_side: the block was taken for work on
  // the side.
  void Free(void* block, int64_t bytes, MemoryTag tag, bool of_side = false);

  // Jobs of the side, told by it. While one is open, so from where it waits for the stream to its
  // last request, nothing that is freed is handed out. Jobs are numbered in the order in which they
  // close; a block of the side that is freed rests until the stream has joined what is closed then.
  // What rests counts as live.
  void OpenSide();
  int64_t CloseSide();
  void JoinSide(int64_t number);

  // Records memory that lives outside the pool (a growing row store), so that the report is whole.
  void Account(int64_t bytes_delta, MemoryTag tag);

  MemoryUse use(MemoryTag tag) const;
  MemoryUse total() const;
  int64_t driver_allocations() const;  // how many requests the pool could not serve from its blocks
  // What the device has given: blocks in use, slabs and freed blocks that wait for requests, and
  // what is accounted beside the pool.
  int64_t taken() const;
  std::string Report() const;  // a line a tag
  const Device& device() const { return device_; }

 private:
  struct Freed {
    void* block;
    int64_t bytes;
    MemoryTag tag;
    int64_t job;  // of the side, that is joined before; 0: none
  };

  struct Slab {
    char* begin;
    Ranges ranges;
  };

  static int64_t BlockSize(int64_t bytes);
  // Null where no slab has room. Under the lock, as is the next.
  void* TakeFromSlabs(int64_t bytes, MemoryTag tag);
  void GiveToSlabs(void* block, int64_t bytes, MemoryTag tag);
  void* AllocateSmall(int64_t bytes, MemoryTag tag);
  [[noreturn]] void OutOfMemory(int64_t bytes, MemoryTag tag) const;
  void* TakeReserved(int64_t bytes, MemoryTag tag);
  bool GiveReserved(void* block, int64_t bytes, MemoryTag tag);
  void GiveBackLocked(const Freed& freed);
  // Gives back what waited for no more than is there now.
  void WakeLocked();
  void AccountLocked(int64_t bytes_delta, MemoryTag tag);

  const Device device_;
  const Driver& driver_;
  // Not where tools look for access out of bounds, which must see every block: on CPUs, and on a
  // GPU where MNEME_SEPARATE_BLOCKS is set.
  const bool has_slabs_;
  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_;  // by BlockSize
  std::vector<Slab> slabs_;
  std::unique_ptr<Ranges> ranges_;  // of the stretch
  char* stretch_ = nullptr;         // null on a device that holds nothing:
  int64_t stretch_bytes_ = 0;
  std::unordered_map<void*, int64_t> places_;  // there, where a block would lie in it
  std::vector<Freed> resting_;
  int64_t open_jobs_ = 0;
  int64_t closed_jobs_ = 0;
  int64_t joined_jobs_ = 0;
  MemoryUse use_[kMemoryTags];
  MemoryUse total_;
  int64_t driver_allocations_ = 0;
  int64_t driver_bytes_ = 0;  // of blocks, in use or free
  int64_t accounted_ = 0;     // beside the pool
};

}  // namespace mneme
