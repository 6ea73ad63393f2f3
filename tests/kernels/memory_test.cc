#include "kernels/core/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mneme::test {
namespace {

TEST(AllocatorTest, BlocksAreAlignedAndComeBackForTheSameSequence) {
  Allocator allocator{Device{}};
  void* first = allocator.Allocate(1000, MemoryTag::kWorkspace);
  void* second = allocator.Allocate(5'000'000, MemoryTag::kWorkspace);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second) % 64, 0u);
  allocator.Free(first, 1000, MemoryTag::kWorkspace);
  allocator.Free(second, 5'000'000, MemoryTag::kWorkspace);
  EXPECT_EQ(allocator.driver_allocations(), 2);
  EXPECT_EQ(allocator.Allocate(1000, MemoryTag::kActivations), first);
  EXPECT_EQ(allocator.Allocate(5'000'000, MemoryTag::kActivations), second);
  EXPECT_EQ(allocator.driver_allocations(), 2);
  allocator.Free(first, 1000, MemoryTag::kActivations);
  allocator.Free(second, 5'000'000, MemoryTag::kActivations);
}

TEST(AllocatorTest, UseIsKeptByTagWithItsPeak) {
  Allocator allocator{Device{}};
  void* block = allocator.Allocate(4096, MemoryTag::kTables);
  const int64_t live = allocator.use(MemoryTag::kTables).live;
  EXPECT_GE(live, 4096);
  EXPECT_LE(live, 4096 * 9 / 8);
  allocator.Account(10'000, MemoryTag::kTables);
  allocator.Account(-10'000, MemoryTag::kTables);
  allocator.Free(block, 4096, MemoryTag::kTables);
  EXPECT_EQ(allocator.use(MemoryTag::kTables).live, 0);
  EXPECT_EQ(allocator.use(MemoryTag::kTables).peak, live + 10'000);
  EXPECT_EQ(allocator.use(MemoryTag::kGradients).peak, 0);
  EXPECT_EQ(allocator.total().peak, live + 10'000);
  EXPECT_NE(allocator.Report().find("tables"), std::string::npos);
  EXPECT_EQ(allocator.Report().find("gradients"), std::string::npos);
}

// A freed block serves requests of its own size only: what is taken does not fall, and may be more
// than was ever live.
TEST(AllocatorTest, TakenCountsFreedBlocks) {
  Allocator allocator{Device{}};
  allocator.Free(allocator.Allocate(1 << 20, MemoryTag::kWorkspace), 1 << 20,
                 MemoryTag::kWorkspace);
  allocator.Free(allocator.Allocate(2 << 20, MemoryTag::kWorkspace), 2 << 20,
                 MemoryTag::kWorkspace);
  EXPECT_EQ(allocator.total().peak, 2 << 20);
  EXPECT_EQ(allocator.taken(), 3 << 20);
  allocator.Account(1000, MemoryTag::kTables);
  EXPECT_EQ(allocator.taken(), (3 << 20) + 1000);
  allocator.Free(allocator.Allocate(1 << 20, MemoryTag::kOther), 1 << 20, MemoryTag::kOther);
  EXPECT_EQ(allocator.taken(), (3 << 20) + 1000);
  allocator.Account(-1000, MemoryTag::kTables);
}

// What the side of a stream uses is not handed out before the stream has joined it, and nothing at
// all while a job of it is open.
TEST(AllocatorTest, BlocksRestUntilTheSideIsJoined) {
  constexpr int64_t kBytes = 1 << 20;
  constexpr MemoryTag kTag = MemoryTag::kExchange;
  Allocator allocator{Device{}};
  const auto take = [&] { return allocator.Allocate(kBytes, kTag); };
  const auto give = [&](void* block, bool of_side) {
    allocator.Free(block, kBytes, kTag, of_side);
  };
  void* of_side = take();
  void* of_stream = take();
  allocator.OpenSide();
  give(of_side, true);
  give(of_stream, false);
  void* third = take();
  EXPECT_NE(third, of_side);
  EXPECT_NE(third, of_stream);
  EXPECT_EQ(allocator.use(kTag).live, 3 * kBytes) << "what rests is live";
  const int64_t first_job = allocator.CloseSide();
  EXPECT_EQ(take(), of_stream);
  void* fourth = take();
  EXPECT_NE(fourth, of_side);
  // Joining a later job joins the ones before it.
  allocator.OpenSide();
  const int64_t second_job = allocator.CloseSide();
  EXPECT_GT(second_job, first_job);
  allocator.JoinSide(second_job);
  EXPECT_EQ(take(), of_side);
  allocator.JoinSide(first_job);
  // Nothing is under way: what comes back can go.
  give(of_side, true);
  EXPECT_EQ(take(), of_side);
  for (void* block : {of_side, of_stream, third, fourth}) give(block, false);
  EXPECT_EQ(allocator.use(kTag).live, 0);
  EXPECT_EQ(allocator.driver_allocations(), 4);
}

// Of a GPU: small blocks of sizes that were never asked for before cost no call of the driver.
TEST(AllocatorTest, SmallBlocksOfAGpuShareSlabs) {
  Device device{Device::Kind::kGpu, 0};
  device.dry = true;
  Allocator allocator(device);
  constexpr int64_t kMost = 64 << 10;
  constexpr MemoryTag kTag = MemoryTag::kTables;
  struct Block {
    char* begin;
    int64_t bytes;
  };
  std::vector<Block> live;
  const auto take = [&](int64_t bytes) {
    live.push_back({static_cast<char*>(allocator.Allocate(bytes, kTag)), bytes});
  };
  for (int64_t bytes = kMost; bytes > 0; bytes -= 997) {
    take(bytes);
    take(kMost - bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(live.back().begin) % 256, 0u);
    if (live.size() < 8) continue;
    // An old one, so that holes come to be.
    allocator.Free(live[2].begin, live[2].bytes, kTag);
    live.erase(live.begin() + 2);
    allocator.Free(live.front().begin, live.front().bytes, kTag);
    live.erase(live.begin());
  }
  EXPECT_EQ(allocator.driver_allocations(), 1);
  EXPECT_EQ(allocator.taken(), 2 << 20);
  std::sort(live.begin(), live.end(),
            [](const Block& a, const Block& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < live.size(); ++i)
    EXPECT_LE(live[i - 1].begin + live[i - 1].bytes, live[i].begin);
  // As many as no slab holds.
  while (live.size() < 64) take(kMost);
  EXPECT_EQ(allocator.driver_allocations(), 2);
  for (const Block& block : live) allocator.Free(block.begin, block.bytes, kTag);
  EXPECT_EQ(allocator.total().live, 0);
  // Neighbours that are free again are one: all that a slab holds.
  live.clear();
  while (live.size() < 64) take(kMost);
  EXPECT_EQ(allocator.driver_allocations(), 2);
  for (const Block& block : live) allocator.Free(block.begin, block.bytes, kTag);
}

TEST(AllocatorTest, NothingIsLegal) {
  Allocator allocator{Device{}};
  void* block = allocator.Allocate(0, MemoryTag::kOther);
  EXPECT_NE(block, nullptr);
  allocator.Free(block, 0, MemoryTag::kOther);
}

}  // namespace
}  // namespace mneme::test
