#include "kernels/core/memory.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "kernels/core/check.h"

namespace mneme {
namespace {
constexpr int64_t kAlignment = 64;
constexpr int64_t kSmall = int64_t{64} << 10;  // up to there from slabs (GPU), never the stretch
constexpr int64_t kSlab = int64_t{2} << 20;
constexpr int64_t kSlabAlignment = 256;
constexpr int64_t kReservedAlignment = 512;
constexpr int64_t kMostWasted = int64_t{32} << 20;  // of a block

int64_t RoundUp(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

int64_t SlabBytes(int64_t bytes) { return RoundUp(std::max<int64_t>(bytes, 1), kSlabAlignment); }

double Mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
}  // namespace

const char* Name(MemoryTag tag) {
  static constexpr const char* kNames[kMemoryTags] = {"parameters", "gradients",   "optimizer",
                                                      "tables",     "activations", "exchange",
                                                      "workspace",  "other"};
  return kNames[static_cast<int>(tag)];
}

Allocator::Allocator(Device device)
    : device_(device),
      driver_(DriverOf(device)),
      has_slabs_(!device.is_cpu() && std::getenv("MNEME_SEPARATE_BLOCKS") == nullptr) {}

Allocator::~Allocator() {
  for (const Freed& freed : resting_) GiveBackLocked(freed);
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) driver_.release(block);
  }
  for (const Slab& slab : slabs_) driver_.release(slab.begin);
  if (stretch_ != nullptr) driver_.release(stretch_);
}

// Classes an eighth of a power of two apart: at most 12.5 % is wasted and nearly equal requests
// share blocks. Of large ones, which are mostly what a run keeps (an eighth of all gradients is
// 2 GiB of a model of 27B), no more than kMostWasted.
int64_t Allocator::BlockSize(int64_t bytes) {
  if (bytes <= 512) return std::max(kAlignment, RoundUp(bytes, kAlignment));
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes)));
  const int64_t step = std::clamp(power / 8, kAlignment, kMostWasted);
  return RoundUp(bytes, step);
}

void Allocator::Reserve(int64_t bytes) {
  CHECK(ranges_ == nullptr);
  if (bytes <= 0) return;
  if (!device_.dry) {
    bytes = RoundUp(bytes, int64_t{2} << 20);
    stretch_ = static_cast<char*>(driver_.allocate(device_.index, bytes));
    if (stretch_ == nullptr) {
      Fatal(__FILE__, __LINE__,
            "out of memory on " + device_.Name() + ": " + std::to_string(bytes) +
                " bytes for what a step needs; lower train.micro_batch, name parts in "
                "train.recompute, or raise parallel.expert or parallel.memory\n" +
                Report());
    }
    std::lock_guard<std::mutex> lock(mutex_);
    driver_bytes_ += bytes;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  stretch_bytes_ = bytes;
  ranges_ = std::make_unique<Ranges>(bytes);
}

// Null where the stretch has no room. Under the lock.
void* Allocator::TakeReserved(int64_t bytes, MemoryTag tag) {
  const int64_t size = RoundUp(bytes, kReservedAlignment);
  const int64_t place = ranges_->Take(size);
  if (place < 0) return nullptr;
  AccountLocked(size, tag);
  if (stretch_ != nullptr) return stretch_ + place;
  auto& kept = free_[BlockSize(bytes)];
  void* block = nullptr;
  if (kept.empty()) {
    block = driver_.allocate(device_.index, BlockSize(bytes));
    CHECK(block != nullptr);
  } else {
    block = kept.back();
    kept.pop_back();
  }
  places_[block] = place;
  return block;
}

// False where the block is none of the stretch. Under the lock.
bool Allocator::GiveReserved(void* block, int64_t bytes, MemoryTag tag) {
  const int64_t size = RoundUp(bytes, kReservedAlignment);
  if (stretch_ == nullptr) {
    const auto place = places_.find(block);
    if (place == places_.end()) return false;
    ranges_->Give(place->second, size);
    places_.erase(place);
    free_[BlockSize(bytes)].push_back(block);
  } else {
    const auto* at = static_cast<const char*>(block);
    if (at < stretch_ || at >= stretch_ + stretch_bytes_) return false;
    ranges_->Give(at - stretch_, size);
  }
  AccountLocked(-size, tag);
  return true;
}

void* Allocator::TakeFromSlabs(int64_t bytes, MemoryTag tag) {
  const int64_t size = SlabBytes(bytes);
  for (Slab& slab : slabs_) {
    const int64_t place = slab.ranges.Take(size);
    if (place < 0) continue;
    AccountLocked(size, tag);
    return slab.begin + place;
  }
  return nullptr;
}

void Allocator::GiveToSlabs(void* block, int64_t bytes, MemoryTag tag) {
  const int64_t size = SlabBytes(bytes);
  const auto* at = static_cast<const char*>(block);
  const auto slab = std::find_if(slabs_.begin(), slabs_.end(), [at](const Slab& s) {
    return at >= s.begin && at < s.begin + kSlab;
  });
  CHECK(slab != slabs_.end());
  slab->ranges.Give(at - slab->begin, size);
  AccountLocked(-size, tag);
}

void* Allocator::AllocateSmall(int64_t bytes, MemoryTag tag) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    void* block = TakeFromSlabs(bytes, tag);
    if (block != nullptr) return block;
  }
  auto* begin = static_cast<char*>(driver_.allocate(device_.index, kSlab));
  if (begin == nullptr) OutOfMemory(kSlab, tag);
  std::lock_guard<std::mutex> lock(mutex_);
  ++driver_allocations_;
  driver_bytes_ += kSlab;
  slabs_.push_back({begin, Ranges(kSlab)});
  return TakeFromSlabs(bytes, tag);
}

void Allocator::OutOfMemory(int64_t bytes, MemoryTag tag) const {
  Fatal(__FILE__, __LINE__,
        "out of memory on " + device_.Name() + ": " + std::to_string(bytes) + " bytes for " +
            Name(tag) +
            "; lower train.micro_batch, name parts in train.recompute, or raise parallel.expert "
            "or parallel.memory\n" +
            Report());
}

void* Allocator::Allocate(int64_t bytes, MemoryTag tag) {
  CHECK_GE(bytes, 0);
  if (has_slabs_ && bytes <= kSmall) return AllocateSmall(bytes, tag);
  const int64_t size = BlockSize(bytes);
  void* block = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ranges_ != nullptr && bytes > kSmall) {
      block = TakeReserved(bytes, tag);
      if (block != nullptr) return block;
    }
    AccountLocked(size, tag);
    auto it = free_.find(size);
    if (it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
      return block;
    }
    ++driver_allocations_;
    driver_bytes_ += size;
  }
  block = driver_.allocate(device_.index, size);
  if (block == nullptr) OutOfMemory(size, tag);
  return block;
}

void Allocator::Free(void* block, int64_t bytes, MemoryTag tag, bool of_side) {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool open = open_jobs_ > 0;
  const int64_t job = of_side ? closed_jobs_ + (open ? 1 : 0) : 0;
  const Freed freed = {block, bytes, tag, job};
  if (open || job > joined_jobs_) {
    resting_.push_back(freed);
  } else {
    GiveBackLocked(freed);
  }
}

void Allocator::OpenSide() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++open_jobs_;
}

int64_t Allocator::CloseSide() {
  std::lock_guard<std::mutex> lock(mutex_);
  CHECK_GT(open_jobs_, int64_t{0});
  --open_jobs_;
  ++closed_jobs_;
  WakeLocked();
  return closed_jobs_;
}

void Allocator::JoinSide(int64_t number) {
  std::lock_guard<std::mutex> lock(mutex_);
  joined_jobs_ = std::max(joined_jobs_, number);
  WakeLocked();
}

void Allocator::GiveBackLocked(const Freed& freed) {
  const auto [block, bytes, tag, job] = freed;
  if (has_slabs_ && bytes <= kSmall) return GiveToSlabs(block, bytes, tag);
  if (ranges_ != nullptr && bytes > kSmall && GiveReserved(block, bytes, tag)) return;
  const int64_t size = BlockSize(bytes);
  AccountLocked(-size, tag);
  free_[size].push_back(block);
}

void Allocator::WakeLocked() {
  if (open_jobs_ > 0) return;
  const auto woken = std::stable_partition(resting_.begin(), resting_.end(),
                                           [&](const Freed& f) { return f.job > joined_jobs_; });
  std::for_each(woken, resting_.end(), [&](const Freed& f) { GiveBackLocked(f); });
  resting_.erase(woken, resting_.end());
}

void Allocator::Account(int64_t bytes_delta, MemoryTag tag) {
  std::lock_guard<std::mutex> lock(mutex_);
  accounted_ += bytes_delta;
  AccountLocked(bytes_delta, tag);
}

void Allocator::AccountLocked(int64_t bytes_delta, MemoryTag tag) {
  const int64_t peak = total_.peak;
  for (MemoryUse* use : {&use_[static_cast<int>(tag)], &total_}) {
    use->live += bytes_delta;
    use->peak = std::max(use->peak, use->live);
  }
  if (total_.peak == peak) return;
  for (MemoryUse& use : use_) use.then = use.live;
  total_.then = total_.live;
}

MemoryUse Allocator::use(MemoryTag tag) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return use_[static_cast<int>(tag)];
}

MemoryUse Allocator::total() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return total_;
}

int64_t Allocator::driver_allocations() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return driver_allocations_;
}

int64_t Allocator::taken() const {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool holds_nothing = ranges_ != nullptr && stretch_ == nullptr;
  return driver_bytes_ + accounted_ + (holds_nothing ? ranges_->high() : 0);
}

int64_t Allocator::reserved_high() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ranges_ == nullptr ? 0 : ranges_->high();
}

std::string Allocator::Report() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string out = "memory on " + device_.Name() + " (MiB):       now      peak\n";
  char line[96];
  const auto add = [&](const char* name, const MemoryUse& use) {
    std::snprintf(line, sizeof line, "  %-20s %10.1f %10.1f\n", name, Mib(use.live), Mib(use.peak));
    out += line;
  };
  for (int i = 0; i < kMemoryTags; ++i) {
    if (use_[i].peak > 0) add(Name(static_cast<MemoryTag>(i)), use_[i]);
  }
  add("total", total_);
  std::snprintf(line, sizeof line, "  %-20s %10.1f\n", "taken from device",
                Mib(driver_bytes_ + accounted_));
  out += line;
  return out;
}

}  // namespace mneme
