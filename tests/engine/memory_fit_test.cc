#include "engine/forecast/memory_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/machine/device.h"
#include "parallel/layout.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kVocabulary = 258;

class MemoryFit : public ::testing::Test {
 protected:
  RunConfig Run(const std::vector<std::string>& words) {
    std::vector<std::string> all = {"train.precision=f32"};
    all.insert(all.end(), words.begin(), words.end());
    return TinyRun(temp_.path(), all);
  }
  int64_t Needs(const RunConfig& config, const Savings& savings) {
    return PredictFootprint(config, savings, layout_, kVocabulary, {}).needs();
  }
  std::vector<Savings> Ways(const RunConfig& config) {
    return WaysToSave(config, layout_, kVocabulary, {});
  }
  int64_t FirstIn(const RunConfig& config, int64_t available) {
    return FirstWayThatFits(config, layout_, kVocabulary, {}, 1, available);
  }

  TempFolder temp_;
  const Layout layout_ = *MakeLayout({}, 1);
};

// Whatever there is room for, the way taken fits and none before it does.
TEST_F(MemoryFit, TakesTheFirstWayThatFits) {
  const RunConfig config = Run({});
  const std::vector<Savings> ways = Ways(config);
  std::vector<int64_t> needs;
  for (const Savings& way : ways) needs.push_back(Needs(config, way));
  const int64_t least = *std::min_element(needs.begin(), needs.end());
  ASSERT_LT(least, needs.front());
  std::set<int64_t> taken;
  for (int64_t room = needs.front(); room >= least; room -= (needs.front() - least) / 40) {
    const auto way = static_cast<size_t>(FirstIn(config, room));
    ASSERT_LE(needs[way], room);
    for (size_t i = 0; i < way; ++i) EXPECT_GT(needs[i], room);
    taken.insert(static_cast<int64_t>(way));
  }
  EXPECT_GE(taken.size(), 4u);
  EXPECT_EQ(FirstIn(config, needs.front()), 0);
  EXPECT_EQ(FirstIn(config, -1), 0);
  EXPECT_EQ(FirstIn(config, 1000), 0) << "nothing helps: as it is, to be refused";
}

TEST_F(MemoryFit, NamesEverySetOfPartsOnceAndAllOfThemLast) {
  const RunConfig config = Run({});
  std::set<std::vector<std::string>> sets;
  int64_t shrink = 1;
  for (const Savings& way : Ways(config)) {
    EXPECT_GE(way.shrink, shrink) << "micro-batches never grow again";
    shrink = way.shrink;
    sets.insert(way.recompute);
  }
  EXPECT_EQ(sets.size(), 16u) << "of attention, ffn, mhc and engram";
  EXPECT_EQ(Ways(config).back().recompute.size(), 4u);
  EXPECT_EQ(WantedMicroBatch(config.train, config.train.sequence_length, {}, shrink), 1);

  const RunConfig plain = Run({"model.mhc.streams=1"});
  sets.clear();
  for (const Savings& way : Ways(plain)) sets.insert(way.recompute);
  EXPECT_EQ(sets.size(), 8u) << "one stream has no mixes to make again";

  const Layout spread = *MakeLayout(Run({"parallel.expert=2"}).parallel, 2);
  sets.clear();
  for (const Savings& way : WaysToSave(plain, spread, kVocabulary, {})) sets.insert(way.recompute);
  EXPECT_EQ(sets.size(), 16u) << "what other ranks sent can be sent again";

  const RunConfig forgetful = Run({"model.engram.blocks=[]"});
  sets.clear();
  for (const Savings& way : Ways(forgetful)) sets.insert(way.recompute);
  EXPECT_EQ(sets.size(), 8u) << "no memory, nothing of it to make again";
}

// What somebody chose stays.
TEST_F(MemoryFit, KeepsWhatTheRunStates) {
  for (const Savings& way : Ways(Run({"train.micro_batch=8"}))) EXPECT_EQ(way.shrink, 1);
  const RunConfig named = Run({"train.recompute=[ffn]"});
  const std::vector<Savings> ways = Ways(named);
  EXPECT_GT(ways.size(), 2u);
  for (const Savings& way : ways) EXPECT_EQ(way.recompute, std::vector<std::string>{"ffn"});
  const RunConfig both = Run({"train.micro_batch=8", "train.recompute=[]"});
  EXPECT_EQ(Ways(both).size(), 1u);
  EXPECT_EQ(Needs(both, NoSavings(both)), PredictFootprint(both, layout_, kVocabulary).needs());
}

// Of ranks alone and CPUs nothing; further GPUs of a host cost more, further hosts do not. GB of
// eight layouts as measured.
TEST(Communicators, TakeMemoryByTheGpusOfEachAxis) {
  const Device gpu{Device::Kind::kGpu, 0};
  const auto gigabytes = [&](int world, int expert, int memory) {
    const Layout layout{.world = world, .expert = expert, .memory = memory};
    EXPECT_EQ(CommunicatorBytes({}, layout), 0);
    return 1e-9 * static_cast<double>(CommunicatorBytes(gpu, layout));
  };
  EXPECT_EQ(gigabytes(1, 1, 1), 0);
  const std::tuple<int, int, int, double> seen[] = {
      {2, 1, 1, 1.73}, {2, 2, 1, 1.82}, {2, 1, 2, 2.27}, {2, 2, 2, 2.31},
      {4, 1, 1, 2.03}, {4, 4, 1, 2.62}, {4, 2, 4, 3.58}, {4, 4, 4, 3.99}};
  for (const auto& [world, expert, memory, bytes] : seen)
    EXPECT_NEAR(gigabytes(world, expert, memory), bytes, 0.12);
  EXPECT_LT(gigabytes(4, 4, 4), gigabytes(8, 8, 8));
  EXPECT_EQ(gigabytes(64, 64, 64), gigabytes(8, 8, 8));
}

TEST_F(MemoryFit, SaysWhatIsGivenUp) {
  const RunConfig config = Run({});
  EXPECT_EQ(Describe(config, NoSavings(config), {}), "");
  const std::string text = Describe(config, {2, {"ffn", "mhc"}}, {});
  EXPECT_THAT(text, HasSubstr("train.micro_batch"));
  EXPECT_THAT(text, HasSubstr("ffn and mhc computed again"));
  EXPECT_EQ(WithSavings(config, {2, {"mhc"}}).train.recompute, std::vector<std::string>{"mhc"});
}

}  // namespace
}  // namespace mneme
