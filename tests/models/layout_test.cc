// A model's numbers do not depend on its layout: 1 to 4 ranks as threads, expert and memory axes.
#include <gtest/gtest.h>

#include <mutex>
#include <numeric>

#include "parallel/reduce.h"
#include "tests/models/model_run.h"

namespace mneme::test {
namespace {

constexpr int64_t kRows = 12;
constexpr int64_t kLength = 6;

struct Outcome {
  std::vector<double> losses;  // of each rank's part
  Pieces gradients;
  std::vector<double> load;  // of all routers

  double loss() const { return std::accumulate(losses.begin(), losses.end(), 0.0); }
};

// Each rank takes its part of the batch in `micro` steps; parts of one thing on several ranks are
// put together. `favour` is the bias of expert 0, where not 0.
Outcome RunLayout(int world, int expert, int memory, int micro, const RecomputePlan& recompute,
                  double favour = 0.0, double room = Layout().expert_room) {
  const HostBatch host = RandomBatch(kRows, kLength, 23, true);
  Outcome outcome;
  outcome.losses.resize(static_cast<size_t>(world));
  std::mutex mutex;
  ThreadWorld::Run(world, [&](World& w) {
    const Layout layout{world, expert, memory, room};
    Rank rank(w, layout, DType::kF64);
    ModelConfig model = TinyModel();
    if (favour > 0.0) model.moe.top_k = 1;
    ModelRun run(rank, model, recompute);
    for (RouterState& router : run.stack->routers()) {
      if (favour > 0.0) SetValue(router.bias, 0, favour);
    }
    double loss = 0.0;
    const int64_t part = kRows / (world * micro);
    for (int64_t i = 0; i < micro; ++i) {
      const int64_t begin = (w.rank() * micro + i) * part;
      loss += run.Step(host.Slice(rank.context, begin, begin + part), host);
    }
    GradientReduction(rank.mesh, rank.store).Finish(rank.stream);
    Pieces tables;
    run.CollectTableGradients(tables);
    const std::lock_guard<std::mutex> lock(mutex);
    outcome.losses[static_cast<size_t>(w.rank())] = loss;
    // Experts of each replica group are the same numbers, owned in part by each member.
    CollectOwnedGradients(rank.store, outcome.gradients);
    for (const auto& [name, values] : tables) {
      std::vector<double>& sum = outcome.gradients[name];
      sum.resize(values.size());
      if (layout.memory_replica(w.rank()) != 0) continue;
      for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
    }
    size_t place = 0;
    for (const RouterState& router : run.stack->routers()) {
      for (const double load : Values(router.load)) {
        if (place == outcome.load.size()) outcome.load.push_back(0.0);
        outcome.load[place++] += load;
      }
    }
  });
  return outcome;
}

void ExpectSameBits(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.losses, b.losses);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, values] : a.gradients) {
    EXPECT_TRUE(values == b.gradients.at(name)) << name;
  }
}

TEST(Layout, LossAndGradientsAgreeWithOneRank) {
  const Outcome one = RunLayout(1, 1, 1, 1, {});
  EXPECT_EQ(one.gradients.count("blocks.2.moe.experts.4.down"), 1u);
  EXPECT_EQ(one.gradients.count("blocks.2.engram.table"), 1u);
  struct Case {
    int world, expert, memory, micro;
  };
  for (const Case& c :
       {Case{1, 1, 1, 3}, Case{2, 1, 1, 1}, Case{2, 2, 2, 2}, Case{2, 2, 1, 1}, Case{3, 3, 1, 1},
        Case{3, 1, 3, 2}, Case{4, 4, 2, 1}, Case{4, 2, 4, 3}, Case{4, 1, 2, 1}, Case{4, 4, 4, 1}}) {
    const Outcome many = RunLayout(c.world, c.expert, c.memory, c.micro, {});
    const std::string what = std::to_string(c.world) + " ranks, expert " +
                             std::to_string(c.expert) + ", memory " + std::to_string(c.memory);
    EXPECT_NEAR(many.loss() / one.loss(), 1.0, 1e-10) << what;
    EXPECT_EQ(many.load, one.load) << what;
    ASSERT_EQ(many.gradients.size(), one.gradients.size()) << what;
    for (const auto& [name, values] : one.gradients) {
      EXPECT_LT(RelativeError(many.gradients.at(name), values), 1e-10) << what << ": " << name;
    }
  }
}

// Every token chooses one expert: three of four ranks receive none.
TEST(Layout, RanksWithoutTokens) {
  const Outcome one = RunLayout(1, 1, 1, 1, {}, 100.0);
  const Outcome many = RunLayout(4, 4, 4, 3, {}, 100.0);
  EXPECT_EQ(one.load[0], static_cast<double>(kRows * kLength));
  EXPECT_EQ(many.load, one.load);
  EXPECT_NEAR(many.loss() / one.loss(), 1.0, 1e-10);
  for (const auto& [name, values] : one.gradients) {
    EXPECT_LT(RelativeError(many.gradients.at(name), values), 1e-10) << name;
  }
}

// Some rank always has more than an equal share, and computes it in pieces.
TEST(Layout, ExpertsInPieces) {
  const Outcome one = RunLayout(1, 1, 1, 1, {});
  for (const bool recompute : {false, true}) {
    const Outcome many = RunLayout(4, 4, 1, 1, {.ffn = recompute}, 0.0, 1.0);
    EXPECT_EQ(many.load, one.load);
    EXPECT_NEAR(many.loss() / one.loss(), 1.0, 1e-10);
    for (const auto& [name, values] : one.gradients) {
      EXPECT_LT(RelativeError(many.gradients.at(name), values), 1e-10) << name;
    }
  }
}

// Recomputation across ranks repeats no exchange out of step and changes no bit.
TEST(Layout, RecomputeOnFourRanks) {
  const Outcome plain = RunLayout(4, 4, 4, 1, {});
  for (const RecomputePlan& plan : {RecomputePlan{true, true, true, true, true},
                                    RecomputePlan{false, false, false, true, false},
                                    RecomputePlan{false, false, false, false, true},
                                    RecomputePlan{true, true, true, false, false}}) {
    const Outcome again = RunLayout(4, 4, 4, 1, plan);
    ExpectSameBits(again, plain);
    EXPECT_EQ(again.load, plain.load);
  }
}

// Two runs of one layout give the same bits.
TEST(Layout, Repeats) { ExpectSameBits(RunLayout(3, 3, 3, 1, {}), RunLayout(3, 3, 3, 1, {})); }

}  // namespace
}  // namespace mneme::test
