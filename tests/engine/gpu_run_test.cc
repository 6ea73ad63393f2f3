// A whole run on the GPU beside the same run on the CPU. Only where the GPU is asked.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "engine/side_by_side.h"
#include "tests/device_under_test.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

class GpuRun : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::TestingGpu()) GTEST_SKIP() << "asks the GPU alone";
  }

  // A run of its own folder: MLA, experts, mHC, Engram.
  RunConfig Config(const std::string& dir, const std::string& device, const std::string& precision,
                   std::vector<std::string> more = {}) {
    std::vector<std::string> all = {"run.dir=" + temp_.path() + "/" + dir,
                                    "device=" + device,
                                    "train.precision=" + precision,
                                    "train.sequence_length=64",
                                    "train.batch_sequences=12",
                                    "train.keep_last=0",
                                    "optim.lr=3e-4",  // more: rounding chooses other experts
                                    "model.hidden=32",
                                    "model.moe.expert_width=16",
                                    "model.engram.table.store=resident"};
    all.insert(all.end(), more.begin(), more.end());
    return TinyRun(temp_.path(), all);
  }
  std::vector<double> Train(const RunConfig& config, int64_t stop_at_step = -1) {
    const Outcome outcome = TrainThreads(1, config, stop_at_step);
    EXPECT_EQ(outcome.exit_code, stop_at_step < 0 ? 0 : 75) << outcome.message;
    return Losses(outcome);
  }

  TempFolder temp_;
};

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_LT(std::abs(got[i] / want[i] - 1), tolerance) << "step " << i + 1;
  }
}

double MeanOfLast(const std::vector<double>& losses, size_t count) {
  return std::accumulate(losses.end() - static_cast<int64_t>(count), losses.end(), 0.0) /
         static_cast<double>(count);
}

TEST_F(GpuRun, FloatIsTheCpusFloatForTwentySteps) {
  for (const char* matrices : {"optim.matrices=muon", "optim.matrices=adamw"}) {
    const std::string name = std::string(matrices).substr(15);
    ExpectNear(Train(Config(name + "_gpu", "gpu", "f32", {matrices})),
               Train(Config(name + "_cpu", "cpu", "f32", {matrices})), 1e-4);
  }
}

TEST_F(GpuRun, Bf16FollowsFloat) {
  const std::vector<std::string> longer = {"train.steps=100"};
  const auto bf16 = Train(Config("bf16", "gpu", "bf16", longer));
  const auto f32 = Train(Config("f32", "gpu", "f32", longer));
  EXPECT_NEAR(MeanOfLast(bf16, 20) / MeanOfLast(f32, 20), 1, 0.005);
}

TEST_F(GpuRun, TwoRunsGiveTheSameBits) {
  for (const char* precision : {"f32", "bf16"}) {
    const std::string name = precision;
    EXPECT_EQ(Train(Config(name + "_1", "gpu", precision)),
              Train(Config(name + "_2", "gpu", precision)));
    EXPECT_EQ(CheckpointState(temp_.path() + "/" + name + "_1/checkpoints/step-20"),
              CheckpointState(temp_.path() + "/" + name + "_2/checkpoints/step-20"));
  }
}

// Nothing is asked of the driver after the second step, and steps come to be one graph; parts of a
// step cannot be timed in one.
TEST_F(GpuRun, StepsAreRecordedAndAskTheDriverForNothing) {
  for (const bool timed : {false, true}) {
    const Outcome outcome = TrainThreads(
        1,
        Config(timed ? "timed" : "recorded", "gpu", "bf16",
               {"train.steps=10", std::string("train.time_parts=") + (timed ? "true" : "false")}));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
    ASSERT_EQ(outcome.steps.size(), 10u);
    const std::vector<double> asked = Told(outcome, "gpu/driver_allocations");
    const std::vector<double> recorded = Told(outcome, "gpu/recorded");
    ASSERT_EQ(asked.size(), 10u);
    ASSERT_EQ(recorded.size(), 10u);
    EXPECT_GT(asked[0], 0);
    for (size_t step = 2; step < asked.size(); ++step) EXPECT_EQ(asked[step], asked[1]) << step + 1;
    EXPECT_EQ(recorded[0], 0);
    EXPECT_EQ(recorded[9], timed ? 0 : 1);
  }
}

TEST_F(GpuRun, TwelveAndEightAreTwenty) {
  for (const char* precision : {"f32", "bf16"}) {
    const std::string name = precision;
    Train(Config(name + "_whole", "gpu", precision));
    const RunConfig halves = Config(name + "_halves", "gpu", precision);
    Train(halves, 12);
    EXPECT_EQ(Train(halves).size(), 8u);
    EXPECT_EQ(CheckpointState(temp_.path() + "/" + name + "_whole/checkpoints/step-20"),
              CheckpointState(halves.run.dir + "/checkpoints/step-20"));
  }
}

// Models, batches and seeds of several sizes at once: recorded steps of each replay beside those of
// the others.
TEST_F(GpuRun, SideBySideEachHasTheBitsThatItHasAlone) {
  const std::vector<std::vector<std::string>> kinds = {
      {"train.seed=1"},
      {"model.moe.experts=12", "model.engram.vocab_size=700"},
      {"model.hidden=64", "train.batch_sequences=24"},
      {"model.engram.blocks=[]", "train.sequence_length=128"},
      {"train.seed=2", "data.seed=2", "model.mhc.streams=4"}};
  for (const char* precision : {"f32", "bf16"}) {
    std::vector<NamedRun> runs;
    for (size_t i = 0; i < kinds.size(); ++i) {
      std::vector<std::string> more = kinds[i];
      more.push_back("train.steps=60");
      more.push_back("train.checkpoint_every=20");
      const std::string dir = std::string(precision) + std::to_string(i);
      runs.push_back({dir, Config(dir + "_beside", "gpu", precision, more)});
      Train(Config(dir + "_alone", "gpu", precision, more));
    }
    for (const RunEnd& end : TrainSideBySide(runs)) {
      EXPECT_EQ(end.exit_code, 0) << end.message;
      const std::string beside = temp_.path() + "/" + end.config + "_beside";
      const std::string alone = temp_.path() + "/" + end.config + "_alone";
      for (const char* step : {"/checkpoints/step-20", "/checkpoints/step-60"})
        EXPECT_EQ(CheckpointState(beside + step), CheckpointState(alone + step)) << end.config;
      EXPECT_EQ(MetricsState(beside + "/metrics.jsonl"), MetricsState(alone + "/metrics.jsonl"))
          << end.config;
    }
  }
}

// Parts that are computed again on the way back, one by one and all: the same bits.
TEST_F(GpuRun, PartsMadeAgainChangeNoBit) {
  const auto end = [&](const std::string& name) {
    return CheckpointState(temp_.path() + "/" + name + "/checkpoints/step-20");
  };
  for (const char* precision : {"f32", "bf16"}) {
    const std::string plain = std::string(precision) + "_none";
    const auto want = Train(Config(plain, "gpu", precision, {"train.recompute=[]"}));
    for (const char* part : {"attention", "ffn", "mhc", "exchange", "engram", "all"}) {
      const std::string name = std::string(precision) + "_" + part;
      const std::string key = std::string("train.recompute=[") + part + "]";
      EXPECT_EQ(Train(Config(name, "gpu", precision, {key})), want) << name;
      EXPECT_EQ(end(name), end(plain)) << name;
    }
  }
}

// A checkpoint knows nothing of the device that wrote it.
TEST_F(GpuRun, CheckpointsPassToTheCpuAndBack) {
  const std::vector<double> whole = Train(Config("whole", "cpu", "f32"));
  for (const auto& [first, then] : {std::pair("cpu", "gpu"), std::pair("gpu", "cpu")}) {
    const std::string dir = std::string(first) + "_then_" + then;
    std::vector<double> losses = Train(Config(dir, first, "f32"), 10);
    const std::vector<double> rest = Train(Config(dir, then, "f32"));
    losses.insert(losses.end(), rest.begin(), rest.end());
    ExpectNear(losses, whole, 1e-4);
  }
}

}  // namespace
}  // namespace mneme
