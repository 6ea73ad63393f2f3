#include "kernels/core/memory.h"

#include <algorithm>
#include <bit>
#include <cstdio>

#include "kernels/core/check.h"

namespace mneme {
namespace {
constexpr int64_t kAlignment = 64;

double Mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
}  // namespace

const char* Name(MemoryTag tag) {
  static constexpr const char* kNames[kMemoryTags] = {"parameters", "gradients",   "optimizer",
                                                      "tables",     "activations", "exchange",
                                                      "workspace",  "other"};
  return kNames[static_cast<int>(tag)];
}

Allocator::Allocator(Device device) : device_(device), driver_(DriverOf(device)) {}

Allocator::~Allocator() {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) driver_.release(block);
  }
}

// Classes an eighth of a power of two apart: at most 12.5 % is wasted and nearly equal requests
// share blocks.
int64_t Allocator::BlockSize(int64_t bytes) {
  if (bytes <= 512) return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  const int64_t step =
      std::max(kAlignment, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / 8);
  return (bytes + step - 1) / step * step;
}

void* Allocator::Allocate(int64_t bytes, MemoryTag tag) {
  CHECK_GE(bytes, 0);
  const int64_t size = BlockSize(bytes);
  void* block = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
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
  if (block == nullptr) {
    Fatal(__FILE__, __LINE__,
          "out of memory on " + device_.Name() + ": " + std::to_string(size) + " bytes for " +
              Name(tag) +
              "; lower train.micro_batch, name parts in train.recompute, or raise parallel.expert "
              "or parallel.memory\n" +
              Report());
  }
  return block;
}

void Allocator::Free(void* block, int64_t bytes, MemoryTag tag) {
  const int64_t size = BlockSize(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  AccountLocked(-size, tag);
  free_[size].push_back(block);
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
  return driver_bytes_ + accounted_;
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
