#include "data/order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mneme {
namespace {

// Samples of each corpus among the numbers [begin, end).
std::vector<int64_t> Counts(const SampleOrder& order, size_t corpora, int64_t begin, int64_t end) {
  std::vector<int64_t> counts(corpora, 0);
  for (int64_t i = begin; i < end; ++i) ++counts[static_cast<size_t>(order.At(i).corpus)];
  return counts;
}

TEST(OrderTest, EveryPassTakesEverySampleOnceInAnotherOrder) {
  const SampleOrder order({1001}, {}, 10, 7);
  ASSERT_EQ(order.samples(0), 100);
  std::vector<std::vector<int64_t>> passes(25);
  for (int64_t i = 0; i < 2500; ++i) {
    const SamplePlace place = order.At(i);
    EXPECT_EQ(place.corpus, 0);
    EXPECT_EQ(place.epoch, i / 100);
    passes[static_cast<size_t>(i / 100)].push_back(place.begin);
  }
  std::vector<int64_t> all(100);
  for (size_t i = 0; i < 100; ++i) all[i] = static_cast<int64_t>(10 * i);
  std::set<std::vector<int64_t>> orders;
  for (const auto& pass : passes) {
    EXPECT_THAT(pass, testing::UnorderedElementsAreArray(all));
    EXPECT_FALSE(std::is_sorted(pass.begin(), pass.end()));
    orders.insert(pass);
  }
  EXPECT_EQ(orders.size(), 25u);
}

TEST(OrderTest, SamplesEndInsideTheCorpus) {
  for (const int64_t tokens : {11, 20, 21, 30, 31, 999}) {
    const SampleOrder order({tokens}, {}, 10, 0);
    int64_t last = 0;
    for (int64_t i = 0; i < order.samples(0); ++i) last = std::max(last, order.At(i).begin);
    EXPECT_LE(last + 11, tokens);
    EXPECT_GT(last + 11 + 10, tokens);
  }
}

TEST(OrderTest, SeedsAndCorporaHaveTheirOwnOrders) {
  const SampleOrder one({1001, 1001}, {}, 10, 1);
  const SampleOrder two({1001, 1001}, {}, 10, 2);
  std::vector<int64_t> of_one;
  std::vector<int64_t> of_two;
  std::vector<std::vector<int64_t>> corpora(2);
  for (int64_t i = 0; i < 100; ++i) {
    of_one.push_back(one.At(i).begin);
    of_two.push_back(two.At(i).begin);
    corpora[static_cast<size_t>(one.At(i).corpus)].push_back(one.At(i).begin);
  }
  EXPECT_NE(of_one, of_two);
  corpora[0].resize(30);
  corpora[1].resize(30);
  EXPECT_NE(corpora[0], corpora[1]);
}

TEST(OrderTest, EveryBlockHasTheMixtureAndACycleHasItExactly) {
  const std::vector<double> weights = {0.7, 0.2, 0.0996, 0.0004, 0.0};
  const SampleOrder order(std::vector<int64_t>(5, 5001), weights, 10, 3);
  for (int64_t block = 0; block < 40; ++block) {
    const auto counts = Counts(order, 5, 1024 * block, 1024 * (block + 1));
    for (size_t c = 0; c < 5; ++c) {
      EXPECT_LT(std::abs(static_cast<double>(counts[c]) - 1024 * weights[c]), 1.001) << c;
    }
    EXPECT_EQ(counts[4], 0);
  }
  // 2²⁰ · w, rounded; the second cycle as the first. Every 64th block is read and the cycle's total
  // from the passes: the last number of a cycle tells how many samples of its corpus came before.
  const int64_t cycle = 1 << 20;
  std::vector<int64_t> before(5, -1);
  for (int64_t i = cycle; before[0] < 0 || before[1] < 0 || before[2] < 0 || before[3] < 0; ++i) {
    const SamplePlace place = order.At(i);
    auto& mine = before[static_cast<size_t>(place.corpus)];
    if (mine < 0) mine = place.epoch;
  }
  for (size_t c = 0; c < 4; ++c) {
    EXPECT_EQ(before[c], static_cast<int64_t>(std::llround(weights[c] * cycle)) / 500) << c;
  }
}

TEST(OrderTest, AMixturesCorporaAreGoneThroughPassByPass) {
  const SampleOrder order({501, 301}, {0.6, 0.4}, 10, 5);  // 50 and 30 samples
  std::vector<std::vector<int64_t>> begins(2);
  for (int64_t i = 0; i < 5000; ++i) {
    const SamplePlace place = order.At(i);
    auto& mine = begins[static_cast<size_t>(place.corpus)];
    const int64_t samples = place.corpus == 0 ? 50 : 30;
    EXPECT_EQ(place.epoch, static_cast<int64_t>(mine.size()) / samples) << i;
    mine.push_back(place.begin);
  }
  for (size_t c = 0; c < 2; ++c) {
    const size_t samples = c == 0 ? 50 : 30;
    for (size_t at = 0; at + samples <= begins[c].size(); at += samples) {
      const auto first = begins[c].begin() + static_cast<int>(at);
      EXPECT_EQ(std::set<int64_t>(first, first + static_cast<int>(samples)).size(), samples);
    }
  }
}

// A run goes on where it was only if these never change.
TEST(OrderTest, ThePlacesOfSamplesAreFixed) {
  const SampleOrder one({100001}, {}, 10, 0);
  const SampleOrder mixed({100001, 5001}, {0.75, 0.25}, 10, 42);
  std::vector<int64_t> places;
  for (const int64_t i : {0, 1, 2, 9999, 10000, 123456789}) {
    places.push_back(one.At(i).begin);
    places.push_back(mixed.At(i).corpus);
    places.push_back(mixed.At(i).begin);
  }
  EXPECT_THAT(places, testing::ElementsAre(76400, 1, 1820, 2080, 0, 7450, 52570, 0, 33870, 67160, 0,
                                           70090, 66800, 1, 4230, 36720, 1, 1060));
}

TEST(OrderTest, ACycleIsExact) {
  // One sample a pass: the epoch counts the samples of the corpus so far.
  const std::vector<double> weights = {3.0, 1.0, 0.5, 1e-9};
  const SampleOrder order(std::vector<int64_t>(4, 2), weights, 1, 9);
  std::vector<int64_t> before(4, -1);
  const int64_t cycle = 1 << 20;
  for (int64_t i = cycle; i < cycle + (1 << 20); ++i) {
    const SamplePlace place = order.At(i);
    auto& mine = before[static_cast<size_t>(place.corpus)];
    if (mine < 0) mine = place.epoch;
    if (std::count(before.begin(), before.end(), -1) == 0) break;
  }
  EXPECT_EQ(std::accumulate(before.begin(), before.end(), int64_t{0}), cycle);
  EXPECT_NEAR(static_cast<double>(before[0]), cycle * 3.0 / 4.5, 1.0);
  EXPECT_NEAR(static_cast<double>(before[1]), cycle * 1.0 / 4.5, 1.0);
  EXPECT_NEAR(static_cast<double>(before[2]), cycle * 0.5 / 4.5, 1.0);
  EXPECT_EQ(before[3], 1);  // a positive weight is never lost
}

TEST(OrderTest, MixtureFollowsTheTokensWhereNoWeightsAreGiven) {
  const SampleOrder order({3001, 1001}, {}, 10, 0);
  EXPECT_THAT(Counts(order, 2, 0, 4096), testing::ElementsAre(3072, 1024));
}

TEST(OrderTest, HugeCorporaAndNumbersStayInRange) {
  const int64_t tokens = int64_t{1} << 42;
  const SampleOrder order({tokens, 100}, {0.5, 0.5}, 7, 0);
  for (const int64_t i : {int64_t{0}, int64_t{1} << 33, int64_t{1} << 45}) {
    const SamplePlace place = order.At(i);
    EXPECT_GE(place.begin, 0);
    EXPECT_LE(place.begin + 8, place.corpus == 0 ? tokens : 100);
  }
}

}  // namespace
}  // namespace mneme
