// One rank against many: the same run on every layout, over threads. tests/mpi_parity_test.cc has
// MPI.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

struct Layout3 {
  int ranks, expert, memory;
};

// MNEME_LONG=1: 20 steps on every layout; else 4 steps on those that differ most.
bool Long() { return std::getenv("MNEME_LONG") != nullptr; }

std::vector<Layout3> Layouts() {
  if (!Long()) return {{2, 2, 1}, {3, 3, 3}, {4, 1, 4}, {4, 4, 2}};
  std::vector<Layout3> all;
  for (int ranks = 1; ranks <= 4; ++ranks) {
    for (int expert = 1; expert <= ranks; ++expert) {
      for (int memory = 1; memory <= ranks; ++memory) {
        if (ranks % expert == 0 && ranks % memory == 0 && ranks > 1) {
          all.push_back({ranks, expert, memory});
        }
      }
    }
  }
  return all;
}

// 16 experts, 12 sequences x 384 = 4,608 tokens a step, bias update on (TinyRun's defaults).
std::vector<std::string> Keys(const std::string& folder, const char* precision, Layout3 l) {
  const std::string name = std::to_string(l.ranks) + "-" + std::to_string(l.expert) + "-" +
                           std::to_string(l.memory) + precision;
  return {"run.dir=" + folder + "/" + name,
          std::string("train.precision=") + precision,
          "parallel.expert=" + std::to_string(l.expert),
          "parallel.memory=" + std::to_string(l.memory),
          std::string("train.steps=") + (Long() ? "20" : "4"),
          "train.micro_batch=2",
          "optim.schedule.warmup=0"};
}

void CompareLayouts(const char* precision, double tolerance) {
  TempFolder temp;
  const std::vector<double> want =
      Losses(TrainThreads(1, TinyRun(temp.path(), Keys(temp.path(), precision, {1, 1, 1}))));
  ASSERT_EQ(want.size(), Long() ? 20u : 4u);
  EXPECT_LT(want.back(), want.front() - 0.3) << "it learns";
  for (const Layout3& l : Layouts()) {
    const Outcome outcome =
        TrainThreads(l.ranks, TinyRun(temp.path(), Keys(temp.path(), precision, l)));
    const std::vector<double> got = Losses(outcome);
    ASSERT_EQ(got.size(), want.size()) << outcome.message;
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] / want[i] - 1));
    }
    EXPECT_LT(worst, tolerance) << l.ranks << " ranks, expert axis " << l.expert << ", memory axis "
                                << l.memory << ", " << precision;
  }
}

TEST(Parity, EveryLayoutIsTheSameRunInDouble) { CompareLayouts("f64", 1e-9); }
TEST(Parity, EveryLayoutIsTheSameRunInFloat) { CompareLayouts("f32", 1e-4); }

TEST(Parity, TwoRunsOfOneLayoutHaveTheSameBits) {
  TempFolder temp;
  const auto run = [&](const char* name) {
    const RunConfig config =
        TinyRun(temp.path(), {"train.steps=3", "train.precision=f32", "parallel.expert=2",
                              "parallel.memory=2", "run.dir=" + temp.path() + "/" + name});
    EXPECT_EQ(TrainThreads(4, config).exit_code, 0);
    return CheckpointState(config.run.dir + "/checkpoints/step-3");
  };
  EXPECT_EQ(run("a"), run("b"));
}

}  // namespace
}  // namespace mneme
