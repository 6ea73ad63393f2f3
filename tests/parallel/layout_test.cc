#include "parallel/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace mneme {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(PartOf, GivesTheFirstPartsOneMore) {
  EXPECT_EQ(PartOf(55, 4, 0), (Range{0, 14}));
  EXPECT_EQ(PartOf(55, 4, 2), (Range{28, 42}));
  EXPECT_EQ(PartOf(55, 4, 3), (Range{42, 55}));
  EXPECT_EQ(PartOf(200'000'000'000, 3, 2), (Range{133'333'333'334, 200'000'000'000}));
}

TEST(PartOf, CoversEverythingOnceAndAgreesWithOwner) {
  for (int64_t n = 0; n <= 40; ++n) {
    for (int parts = 1; parts <= 12; ++parts) {
      int64_t next = 0;
      for (int part = 0; part < parts; ++part) {
        const Range range = PartOf(n, parts, part);
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), n / parts);
        EXPECT_LE(range.size(), n / parts + 1);
        for (int64_t i = range.begin; i < range.end; ++i) EXPECT_EQ(OwnerOf(n, parts, i), part);
        next = range.end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

// Every axis of every factorisation: coordinates and replicas name each rank once, and every row
// has one owner and one keeper of its state.
TEST(Layout, AllFactorisationsUpTo64Ranks) {
  for (int world = 1; world <= 64; ++world) {
    for (int expert = 1; expert <= world; ++expert) {
      if (world % expert != 0) continue;
      for (int memory = 1; memory <= world; ++memory) {
        if (world % memory != 0) continue;
        ParallelConfig config;
        config.expert = expert;
        config.memory = memory;
        const absl::StatusOr<Layout> layout = MakeLayout(config, world);
        ASSERT_TRUE(layout.ok());
        std::set<std::pair<int, int>> experts, memories;
        for (int rank = 0; rank < world; ++rank) {
          experts.emplace(layout->expert_replica(rank), layout->expert_coordinate(rank));
          memories.emplace(layout->memory_replica(rank), layout->memory_coordinate(rank));
          EXPECT_LT(layout->expert_replica(rank), layout->expert_replicas());
          EXPECT_LT(layout->memory_replica(rank), layout->memory_replicas());
          EXPECT_LT(layout->expert_coordinate(rank), expert);
          EXPECT_LT(layout->memory_coordinate(rank), memory);
        }
        EXPECT_EQ(static_cast<int>(experts.size()), world);
        EXPECT_EQ(static_cast<int>(memories.size()), world);
        // Any `world` neighbouring rows put one row's state on each rank.
        std::set<std::pair<int, int>> keepers;
        const int64_t first = 199'999'999'935 / world * world;
        for (int64_t row = first; row < first + world; ++row) {
          keepers.emplace(layout->row_state_replica(row), layout->row_coordinate(row));
        }
        EXPECT_EQ(static_cast<int>(keepers.size()), world);
      }
    }
  }
}

TEST(Layout, NeighboursShareAReplica) {
  const Layout layout{6, 3, 2};
  EXPECT_EQ(layout.expert_replica(2), 0);
  EXPECT_EQ(layout.expert_replica(3), 1);
  EXPECT_EQ(layout.expert_coordinate(4), 1);
  EXPECT_EQ(layout.memory_replicas(), 3);
}

TEST(Layout, ZeroMeansAllRanks) {
  ParallelConfig config;
  config.expert = 0;
  config.memory = 0;
  config.expert_room = 1.25;
  const absl::StatusOr<Layout> layout = MakeLayout(config, 6);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->expert, 6);
  EXPECT_EQ(layout->memory, 6);
  EXPECT_EQ(layout->expert_room, 1.25);
  EXPECT_TRUE(layout->peer);
  config.transport = "nccl";
  EXPECT_FALSE(MakeLayout(config, 6)->peer);
  EXPECT_FALSE(MakeLayout({}, 6)->peer) << "no axis exchanges";
}

TEST(Layout, AxesGoByPeersWithinAHost) {
  EXPECT_EQ(RanksPerHost({"a", "a", "a", "a"}), 4);
  EXPECT_EQ(RanksPerHost({"a", "a", "b", "b"}), 2);
  EXPECT_EQ(RanksPerHost({"a", "a", "a", "a", "b", "b"}), 2);
  EXPECT_EQ(RanksPerHost({"a", "b", "a", "b"}), 1);
  Layout layout{.world = 64, .expert = 8, .memory = 16, .ranks_per_host = 8, .peer = true};
  EXPECT_TRUE(layout.ByPeers(8));
  EXPECT_TRUE(layout.ByPeers(4));
  EXPECT_FALSE(layout.ByPeers(1));
  EXPECT_FALSE(layout.ByPeers(16)) << "two hosts";
  layout.ranks_per_host = 0;
  EXPECT_TRUE(layout.ByPeers(16));
  EXPECT_FALSE(layout.ByPeers(32)) << "more than a group takes";
  layout.peer = false;
  EXPECT_FALSE(layout.ByPeers(8));
}

TEST(Layout, RefusesAxesThatDoNotDivideTheWorld) {
  ParallelConfig config;
  config.expert = 4;
  config.memory = -1;
  const absl::Status status = MakeLayout(config, 6).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("parallel.expert: 4 does not divide the 6 ranks"));
  EXPECT_THAT(Message(status), HasSubstr("1, 2, 3, 6"));
  EXPECT_THAT(Message(status), HasSubstr("parallel.memory: -1"));
  config.expert = 12;  // more than there are ranks
  config.memory = 1;
  EXPECT_FALSE(MakeLayout(config, 6).ok());
}

TEST(Layout, RefusesAxesOfTooManyRanks) {
  ParallelConfig config;
  config.expert = kMostAxis;
  config.memory = 0;
  EXPECT_TRUE(MakeLayout(config, kMostAxis).ok());
  EXPECT_TRUE(MakeLayout({}, 3 * kMostAxis).ok());
  const absl::Status status = MakeLayout(config, 3 * kMostAxis).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("parallel.memory: an axis has at most 2048 ranks, and "
                                         "this one 6144; the largest legal value here is 2048"));
}

TEST(PlanBatch, KeepsTheGlobalBatchOnAnyRankCount) {
  for (int world : {1, 2, 3, 4, 6, 12}) {
    const absl::StatusOr<BatchPlan> plan = PlanBatch(12, 4, world);
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ(plan->sequences, 12);
    EXPECT_EQ(plan->micro * plan->accumulation * world, 12);
    EXPECT_LE(plan->micro, 4);
  }
  EXPECT_EQ(PlanBatch(24, 5, 2)->micro, 4);    // 12 a rank: 4 divides, 5 does not
  EXPECT_EQ(PlanBatch(14, 100, 2)->micro, 7);  // no more than there are
  EXPECT_EQ(PlanBatch(14, 6, 2)->micro, 1);    // 7 is prime
}

TEST(PlanBatch, NamesTheNearestLegalValues) {
  const std::string message = Message(PlanBatch(24, 4, 5).status());
  EXPECT_THAT(message, HasSubstr("24 sequences"));
  EXPECT_THAT(message, HasSubstr("5 ranks"));
  EXPECT_THAT(message, HasSubstr("nearest legal batch: 20 or 25 sequences"));
  EXPECT_THAT(message, HasSubstr("nearest legal rank count: 4 or 6"));
  const std::string too_many = Message(PlanBatch(3, 1, 5).status());
  EXPECT_THAT(too_many, HasSubstr("nearest legal batch: 5 sequences"));
  EXPECT_THAT(too_many, HasSubstr("nearest legal rank count: 3"));
  EXPECT_EQ(PlanBatch(0, 1, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PlanBatch(4, 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mneme
