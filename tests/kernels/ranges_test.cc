#include "kernels/core/ranges.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "kernels/core/memory.h"
#include "kernels/core/random.h"

namespace mneme::test {
namespace {

TEST(RangesTest, TakesTheSmallestThatFitsAndJoinsNeighbours) {
  Ranges ranges(100);
  EXPECT_EQ(ranges.Take(40), 0);
  EXPECT_EQ(ranges.Take(20), 40);
  EXPECT_EQ(ranges.Take(40), 60);
  EXPECT_EQ(ranges.Take(1), -1);
  ranges.Give(0, 40);
  ranges.Give(60, 40);
  EXPECT_EQ(ranges.Take(41), -1) << "forty before and forty behind do not touch";
  ranges.Give(40, 20);
  EXPECT_EQ(ranges.Take(100), 0);
  ranges.Give(0, 100);
  EXPECT_EQ(ranges.Take(10), 0);
  EXPECT_EQ(ranges.Take(30), 10);
  EXPECT_EQ(ranges.Take(10), 40);
  EXPECT_EQ(ranges.Take(20), 50);
  ranges.Give(0, 10);
  ranges.Give(10, 30);
  ranges.Give(50, 20);
  EXPECT_EQ(ranges.Take(30), 0) << "forty in front before what lies behind";
  EXPECT_EQ(ranges.Take(10), 30) << "ten between before what lies behind";
  EXPECT_EQ(ranges.Take(10), 50);
  EXPECT_EQ(ranges.high(), 100);
}

// Requests and returns as a step makes them: sizes of some kinds, most returned soon, all in the
// end. Gives the places of all requests.
std::vector<std::pair<int64_t, int64_t>> Churn(Ranges& ranges, uint64_t seed) {
  const RandomKey key = MakeKey(seed, "churn");
  std::vector<std::pair<int64_t, int64_t>> live, all;
  for (uint64_t i = 0; i < 4000; ++i) {
    if (live.empty() || RandomUniform(key, 3 * i) < 0.55) {
      const auto bytes = 1 + static_cast<int64_t>(RandomUniform(key, 3 * i + 1) * 5000);
      const int64_t place = ranges.Take(bytes);
      EXPECT_GE(place, 0);
      for (const auto& [other, length] : live)
        EXPECT_TRUE(place + bytes <= other || other + length <= place);
      live.emplace_back(place, bytes);
      all.emplace_back(place, bytes);
    } else {
      const auto which =
          static_cast<size_t>(RandomUniform(key, 3 * i + 2) * static_cast<double>(live.size()));
      ranges.Give(live[which].first, live[which].second);
      live[which] = live.back();
      live.pop_back();
    }
  }
  for (const auto& [place, bytes] : live) ranges.Give(place, bytes);
  return all;
}

TEST(RangesTest, TheSameRequestsGetTheSamePlacesAndLeaveNothingBehind) {
  Ranges ranges(int64_t{1} << 40);
  const auto first = Churn(ranges, 1);
  const int64_t high = ranges.high();
  Ranges tight(high);
  EXPECT_EQ(Churn(tight, 1), first) << "however long the stretch is";
  EXPECT_EQ(Churn(ranges, 1), first);
  EXPECT_EQ(ranges.high(), high);
  EXPECT_EQ(ranges.Take(int64_t{1} << 40), 0) << "one free range again";
}

// What a device that holds nothing says of a stretch is what a real one uses of it.
TEST(RangesTest, AStretchIsAsLongAsRehearsed) {
  const auto run = [](Allocator& pool) {
    std::vector<std::pair<void*, int64_t>> live;
    const RandomKey key = MakeKey(2, "stretch");
    for (uint64_t i = 0; i < 600; ++i) {
      if (live.empty() || RandomUniform(key, 2 * i) < 0.6) {
        const auto bytes =
            (1 << 17) + static_cast<int64_t>(RandomUniform(key, 2 * i + 1) * (1 << 18));
        live.emplace_back(pool.Allocate(bytes, MemoryTag::kActivations), bytes);
      } else {
        pool.Free(live.back().first, live.back().second, MemoryTag::kActivations);
        live.erase(live.end() - 1);
      }
      if (live.size() > 20) {
        pool.Free(live.front().first, live.front().second, MemoryTag::kActivations);
        live.erase(live.begin());
      }
    }
    for (const auto& [block, bytes] : live) pool.Free(block, bytes, MemoryTag::kActivations);
    EXPECT_EQ(pool.total().live, 0);
  };
  Device nothing{Device::Kind::kGpu, 0};
  nothing.dry = true;
  Allocator dry(nothing);
  dry.Reserve(Allocator::kAnyLength);
  run(dry);
  const int64_t needs = dry.reserved_high();
  EXPECT_GT(needs, 1 << 20);

  Allocator real{Device{}};
  real.Reserve(needs);
  run(real);
  EXPECT_EQ(real.reserved_high(), needs);
  EXPECT_EQ(real.total().peak, dry.total().peak);
  const int64_t blocks = real.driver_allocations();
  run(real);
  EXPECT_EQ(real.driver_allocations(), blocks) << "the second time all is there";
}

TEST(RangesTest, WhatTheStretchDoesNotHoldComesFromTheDriver) {
  Allocator pool{Device{}};
  void* before = pool.Allocate(200'000, MemoryTag::kOther);
  pool.Reserve(1 << 20);
  void* inside = pool.Allocate(900'000, MemoryTag::kOther);
  const int64_t blocks = pool.driver_allocations();
  void* outside = pool.Allocate(4 << 20, MemoryTag::kOther);
  EXPECT_EQ(pool.driver_allocations(), blocks + 1);
  pool.Free(before, 200'000, MemoryTag::kOther);
  pool.Free(inside, 900'000, MemoryTag::kOther);
  pool.Free(outside, 4 << 20, MemoryTag::kOther);
  EXPECT_EQ(pool.total().live, 0);
  EXPECT_EQ(pool.Allocate(4 << 20, MemoryTag::kOther), outside);
  EXPECT_EQ(pool.Allocate(900'000, MemoryTag::kOther), inside);
  pool.Free(outside, 4 << 20, MemoryTag::kOther);
  pool.Free(inside, 900'000, MemoryTag::kOther);
}

}  // namespace
}  // namespace mneme::test
