// Stages: each with its own length, batch, schedule and rotary scaling; weights, moments and counts
// go on.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "engine/evaluation/evaluate.h"
#include "engine/loaded_model.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

// 12 steps at 32, then 8 at 128 with YaRN x 4 at a constant rate, in half the sequences.
RunConfig TwoStages(const std::string& folder, const std::string& dir,
                    const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {
      "run.dir=" + folder + "/" + dir,
      "train.sequence_length=32",
      "train.batch_sequences=12",
      "train.checkpoint_every=5",
      "train.keep_last=0",
      "stages=[{name: short, steps: 12}, {name: long, tokens: 6000, sequence_length: 128, "
      "batch_sequences: 6, lr: 1e-3, schedule: {shape: constant, warmup: 0}, "
      "yarn: {scale: 4, original_length: 32}}]"};
  all.insert(all.end(), more.begin(), more.end());
  return TinyRun(folder, all);
}

TEST(Stages, GoOnFromOneToTheNext) {
  TempFolder temp;
  const RunConfig config = TwoStages(temp.path(), "run");
  const Outcome outcome = TrainThreads(2, config);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  ASSERT_EQ(outcome.steps.size(), 20u);  // 6,000 tokens are 7.8 updates of 768
  EXPECT_EQ(outcome.steps[11].tokens, 12 * 12 * 32);
  EXPECT_EQ(outcome.steps[19].tokens, 12 * 12 * 32 + 8 * 6 * 128);
  EXPECT_DOUBLE_EQ(outcome.steps[12].learning_rate, 1e-3);
  EXPECT_DOUBLE_EQ(outcome.steps[19].learning_rate, 1e-3);
  // Weights go on: the second stage does not begin where a fresh model does.
  EXPECT_LT(outcome.steps[12].loss, outcome.steps[0].loss - 0.5);
  const auto position = ReadCheckpointPosition(config.run.dir + "/checkpoints/step-20");
  ASSERT_TRUE(position.ok());
  EXPECT_EQ(position->stage, 1);
  EXPECT_EQ(position->stage_step, 8);
  EXPECT_EQ(position->stage_sample, 8 * 6);
  EXPECT_EQ(position->updates, 20);
}

TEST(Stages, ResumeInsideAtTheSeamAndBeforeIt) {
  TempFolder temp;
  const RunConfig whole = TwoStages(temp.path(), "whole");
  ASSERT_EQ(TrainThreads(2, whole).exit_code, 0);
  const RunConfig parts = TwoStages(temp.path(), "parts");
  for (const int64_t stop : {7, 12, 15}) ASSERT_EQ(TrainThreads(2, parts, stop).exit_code, 75);
  const Outcome last = TrainThreads(2, parts);
  ASSERT_EQ(last.exit_code, 0) << last.message;
  EXPECT_EQ(last.steps.size(), 5u);
  EXPECT_EQ(CheckpointState(whole.run.dir + "/checkpoints/step-20"),
            CheckpointState(parts.run.dir + "/checkpoints/step-20"));
  EXPECT_EQ(MetricsState(whole.run.dir + "/metrics.jsonl"),
            MetricsState(parts.run.dir + "/metrics.jsonl"));
}

TEST(Stages, ALoadedModelHasTheRotaryScalingOfItsStage) {
  TempFolder temp;
  const RunConfig config = TwoStages(temp.path(), "run");
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  ThreadWorld::Run(1, [&](World& world) {
    const auto newest = LoadModel(world, config.run.dir);
    ASSERT_TRUE(newest.ok()) << newest.status();
    EXPECT_EQ((*newest)->sequence_length, 128);
    EXPECT_EQ((*newest)->yarn.scale, 4.0);
    const auto early = LoadModel(world, config.run.dir + "/checkpoints/step-10");
    ASSERT_TRUE(early.ok()) << early.status();
    EXPECT_EQ((*early)->sequence_length, 32);
    EXPECT_EQ((*early)->yarn.scale, 1.0);
  });
}

// Another length and scaling for a trained model: the oracle is a run that begins from it at these
// and moves nothing before it scores.
TEST(Stages, ALoadedModelIsScoredAtAnotherLengthAsARunAtThatLengthScores) {
  TempFolder temp;
  const std::string set = "evaluate.sets=[{name: ho, data: " + temp.path() + "/held_out}]";
  const std::string heads = "model.mla.qk_rope=8";  // whose ramp depends on the original length
  const RunConfig donor =
      TinyRun(temp.path(), {"run.dir=" + temp.path() + "/donor", "train.sequence_length=32",
                            "train.steps=8", heads, set});
  ASSERT_EQ(TrainThreads(1, donor).exit_code, 0);
  const auto scored_by_run = [&](const std::string& yarn) {
    const RunConfig heir =
        TinyRun(temp.path(),
                {"run.dir=" + temp.path() + "/heir" + (yarn.empty() ? "" : "_yarn"), set,
                 "model.moe.bias_update=0", heads, "train.checkpoint_last=false",
                 "stages=[{init_from: " + donor.run.dir +
                     ", steps: 1, sequence_length: 128, lr: 1e-300, schedule: {shape: constant, "
                     "warmup: 0}" +
                     yarn + "}]"});
    const Outcome outcome = TrainThreads(1, heir);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.message;
    for (const auto& [name, value] : outcome.steps.at(0).more) {
      if (name == "evaluate/ho/loss") return value;
    }
    ADD_FAILURE() << "the run scored nothing";
    return 0.0;
  };
  const double plain = scored_by_run("");
  const double scaled = scored_by_run(", yarn: {scale: 4, original_length: 32}");
  EXPECT_GT(std::abs(scaled / plain - 1), 1e-6);
  ThreadWorld::Run(2, [&](World& world) {
    const auto loaded = LoadModel(world, donor.run.dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const auto score = [&](int64_t length, double scale) {
      (*loaded)->SetLength(length, scale);
      EXPECT_EQ((*loaded)->sequence_length, length);
      const auto held_out = HeldOut::Open(donor.evaluate.sets.front(), "reset", length);
      return Evaluate(world, (*loaded)->context(), (*loaded)->stack(), **held_out, "ho", 2)->loss;
    };
    EXPECT_NEAR(score(128, 0.0) / plain, 1.0, 1e-12);
    EXPECT_NEAR(score(128, 1.0) / plain, 1.0, 1e-12);
    // Scaling begins at the length it was trained at, whatever it was scored at before.
    EXPECT_NEAR(score(128, 4.0) / scaled, 1.0, 1e-12);
  });
}

TEST(Stages, MoreStepsOfTheLastStageGoOn) {
  TempFolder temp;
  ASSERT_EQ(TrainThreads(1, TwoStages(temp.path(), "run")).exit_code, 0);
  const Outcome outcome =
      TrainThreads(1, TwoStages(temp.path(), "run",
                                {"stages=[{name: short, steps: 12}, {name: long, steps: 9, "
                                 "sequence_length: 128, batch_sequences: 6, lr: 1e-3, "
                                 "schedule: {shape: constant, warmup: 0}, "
                                 "yarn: {scale: 4, original_length: 32}}]"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.message;
  EXPECT_EQ(outcome.steps.size(), 1u);
}

// Where a resident table fits too, a lazy one gives the same bits.
TEST(Stores, LazyAndResidentTablesHaveTheSameBits) {
  TempFolder temp;
  const auto run = [&](const std::string& store) {
    const RunConfig config =
        TinyRun(temp.path(), {"run.dir=" + temp.path() + "/" + store, "train.steps=6",
                              "train.sequence_length=64", "model.engram.table.store=" + store,
                              "parallel.memory=2"});
    const Outcome outcome = TrainThreads(4, config);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.message;
    return CheckpointState(config.run.dir + "/checkpoints/step-6");
  };
  EXPECT_EQ(run("lazy"), run("resident"));
}

}  // namespace
}  // namespace mneme
