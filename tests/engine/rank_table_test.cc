#include "engine/machine/rank_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mneme {
namespace {

using testing::HasSubstr;

RankTable TwoRanks() {
  return {{"world", "expert"},
          {{"a", "cpu", 8, {4e9, 2.5e9}}, {"long-name", "cpu", 16, {0.3e9, 2e9}}}};
}

TEST(RankTable, HasALineARank) {
  EXPECT_EQ(RankTableText(TwoRanks()),
            "rank  host       device  cores  all-to-all world  all-to-all expert\n"
            "0     a          cpu     8      4 GB/s            2.5 GB/s\n"
            "1     long-name  cpu     16     0.3 GB/s          2 GB/s");
}

TEST(RankTable, SaysTheWayBetweenGpus) {
  RankTable table = TwoRanks();
  table.ranks[1].way = "NCCL, not peer memory: ranks on several hosts";
  EXPECT_EQ(
      RankTableText(table),
      RankTableText(TwoRanks()) + "\nbetween GPUs: NCCL, not peer memory: ranks on several hosts");
  table.ranks[0].way = "peer memory";
  EXPECT_THAT(RankTableText(table), HasSubstr("\nbetween GPUs: peer memory"));
  EXPECT_THAT(RankTableText(table), HasSubstr("ranks on several hosts\n"));
  table.ranks[1].way = table.ranks[0].way;
  EXPECT_EQ(RankTableText(table), RankTableText(TwoRanks()) + "\nbetween GPUs: peer memory");
}

TEST(RankTable, WarnsOfAnAxisFarBelowTheDevicesFigure) {
  EXPECT_EQ(
      SlowAxesText(TwoRanks(), 5e9, "the file of CPU"),
      "warning: rank 1 (host long-name) sends 0.3 GB/s on the world axis; the file of CPU has "
      "5 GB/s: look at its link, or at what else uses it");
  EXPECT_EQ(SlowAxesText(TwoRanks(), 3e9, "the file of CPU"), "");
  RankTable crowded = TwoRanks();
  crowded.ranks[1].processors = 0;
  EXPECT_EQ(SlowAxesText(crowded, 5e9, "the file of CPU"), "");
}

TEST(RankTable, MeasuresEveryAxisThatHasOthers) {
  ThreadWorld::Run(4, [](World& world) {
    Machine machine(world, {4, 2, 1}, DType::kF32);
    const RankTable table = MeasureRanks(world, machine);
    EXPECT_THAT(table.axes, testing::ElementsAre("world", "expert"));
    ASSERT_EQ(table.ranks.size(), 4u);
    for (const RankRow& row : table.ranks) {
      EXPECT_EQ(row.host, world.host());
      EXPECT_EQ(row.device, "cpu");
      EXPECT_GT(row.processors, 0);
      EXPECT_THAT(row.rates, testing::Each(testing::Gt(0.0)));
      EXPECT_EQ(row.rates.size(), 2u);
    }
    EXPECT_EQ(machine.mesh.world->bytes_sent(), 0) << "counted as the run's";
    EXPECT_EQ(machine.allocator.total().peak, 0) << "counted as the run's";
  });
}

}  // namespace
}  // namespace mneme
