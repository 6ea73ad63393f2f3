// Stopping and going on: the same bits on the same layout, the same run on any other.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "configs/load.h"
#include "data/files.h"
#include "engine/checkpoint/checkpoint.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

// Small enough for a hundred steps in seconds.
const std::vector<std::string> kQuick = {"train.sequence_length=48",  "train.batch_sequences=12",
                                         "train.steps=100",           "train.checkpoint_every=20",
                                         "optim.schedule.shape=step", "train.skip.outlier_sigma=6",
                                         "train.skip.window=8",       "train.keep_last=0"};

RunConfig Quick(const std::string& folder, const std::string& dir,
                std::vector<std::string> more = {}) {
  std::vector<std::string> all = kQuick;
  all.push_back("run.dir=" + folder + "/" + dir);
  all.insert(all.end(), more.begin(), more.end());
  return TinyRun(folder, all);
}

std::string Step(const RunConfig& config, int64_t step) {
  return config.run.dir + "/checkpoints/step-" + std::to_string(step);
}

// So many steps at once, and in two parts.
void InTwoParts(int ranks, size_t first_steps, size_t second_steps,
                std::vector<std::string> layout) {
  TempFolder temp;
  const size_t steps = first_steps + second_steps;
  layout.push_back("train.steps=" + std::to_string(steps));
  const RunConfig whole = Quick(temp.path(), "whole", layout);
  const RunConfig halves = Quick(temp.path(), "halves", layout);
  ASSERT_EQ(TrainThreads(ranks, whole).exit_code, 0);
  const Outcome first = TrainThreads(ranks, halves, static_cast<int64_t>(first_steps));
  ASSERT_EQ(first.exit_code, 75) << first.message;
  ASSERT_EQ(first.steps.size(), first_steps);
  const Outcome second = TrainThreads(ranks, halves);
  ASSERT_EQ(second.exit_code, 0) << second.message;
  ASSERT_EQ(second.steps.size(), second_steps);
  const auto last = static_cast<int64_t>(steps);
  EXPECT_EQ(CheckpointState(Step(whole, last)), CheckpointState(Step(halves, last)));
  EXPECT_EQ(MetricsState(whole.run.dir + "/metrics.jsonl"),
            MetricsState(halves.run.dir + "/metrics.jsonl"));
  EXPECT_EQ(MetricsState(whole.run.dir + "/metrics.jsonl").size(), steps);
}

void SixtyAndForty(int ranks, const std::vector<std::string>& layout) {
  InTwoParts(ranks, 60, 40, layout);
}

TEST(Resume, SixtyAndFortyAreAHundredOnOneRank) { SixtyAndForty(1, {"train.precision=f32"}); }

TEST(Resume, SixtyAndFortyAreAHundredOnFourRanks) {
  SixtyAndForty(4, {"parallel.expert=2", "parallel.memory=2"});
}

TEST(Resume, ResidentTablesGoOnToo) { SixtyAndForty(2, {"model.engram.table.store=resident"}); }

// Of a table that decays every row is another at each step; of one with touched-only Adam few are.
TEST(Resume, TablesThatDecayAndTablesOfTouchedRowsGoOnToo) {
  InTwoParts(3, 6, 4,
             {"parallel.memory=1", "model.engram.table.store=resident",
              "model.engram.table.weight_decay=0.5"});
  InTwoParts(4, 6, 4, {"parallel.memory=2", "model.engram.table.adam=touched"});
}

// What is skipped depends on the losses before, and how many were skipped in a row ends a run:
// both go on where every step has a process of its own.
TEST(Resume, SkippedStepsAreCountedAndMeasuredOn) {
  TempFolder temp;
  const auto compare = [&](const std::string& dir, const std::vector<std::string>& keys,
                           int exit_code) {
    const RunConfig whole = Quick(temp.path(), dir + "_whole", keys);
    const RunConfig parts = Quick(temp.path(), dir + "_parts", keys);
    const Outcome once = TrainThreads(2, whole);
    ASSERT_EQ(once.exit_code, exit_code) << once.message;
    size_t skipped = 0;
    for (const StepReport& step : once.steps) {
      skipped += step.skipped;
      const bool last = step.step == once.steps.back().step;
      const Outcome now = TrainThreads(2, parts, step.step);
      ASSERT_EQ(now.exit_code, last ? exit_code : 75) << dir << " " << step.step << now.message;
      ASSERT_EQ(now.steps.size(), 1u);
      EXPECT_EQ(now.steps[0].skipped, step.skipped) << dir << ", step " << step.step;
    }
    EXPECT_GT(skipped, 1u);
    EXPECT_LT(skipped, once.steps.size());
    EXPECT_EQ(MetricsState(whole.run.dir + "/metrics.jsonl"),
              MetricsState(parts.run.dir + "/metrics.jsonl"));
  };
  compare(
      "outliers",
      {"train.skip.outlier_sigma=1e-9", "train.skip.window=3", "optim.lr=1e-9", "train.steps=12"},
      0);
  compare("diverges",
          {"train.precision=f32", "optim.lr=1e30", "train.skip.limit=4", "train.steps=30",
           "optim.schedule.warmup=0"},
          4);
}

// Losses after a change of layout, beside the same steps on the old one.
TEST(Resume, FourRanksGoOnAsTwoOneAndThree) {
  TempFolder temp;
  const std::vector<std::string> four = {"parallel.expert=4", "parallel.memory=2"};
  const RunConfig whole = Quick(temp.path(), "whole", four);
  ASSERT_EQ(TrainThreads(4, whole, 50).exit_code, 75);
  const auto copy = [&](const std::string& to) {
    std::filesystem::copy(whole.run.dir, temp.path() + "/" + to,
                          std::filesystem::copy_options::recursive);
  };
  for (const char* to : {"two", "one", "three"}) copy(to);
  const std::vector<double> want = Losses(TrainThreads(4, whole, 70));
  ASSERT_EQ(want.size(), 20u);
  const auto compare = [&](int ranks, const std::string& dir, std::vector<std::string> layout) {
    const Outcome outcome = TrainThreads(ranks, Quick(temp.path(), dir, std::move(layout)), 70);
    ASSERT_EQ(outcome.exit_code, 75) << outcome.message;
    const std::vector<double> got = Losses(outcome);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_LT(std::abs(got[i] / want[i] - 1), 1e-9) << dir << ", step " << 51 + i;
    }
  };
  compare(2, "two", {"parallel.expert=2", "parallel.memory=1"});
  compare(1, "one", {});
  compare(3, "three", {"parallel.expert=3", "parallel.memory=3"});
}

TEST(Resume, AFinishedRunSaysSoAndMoreStepsGoOn) {
  TempFolder temp;
  const RunConfig config = Quick(temp.path(), "run", {"train.steps=10"});
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  const Outcome again = TrainThreads(1, config);
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_TRUE(again.steps.empty());
  EXPECT_NE(again.message.find("finished"), std::string::npos) << again.message;
  const Outcome more = TrainThreads(2, Quick(temp.path(), "run", {"train.steps=12"}));
  EXPECT_EQ(more.exit_code, 0) << more.message;
  EXPECT_EQ(more.steps.size(), 2u);
}

TEST(Resume, AResultThatCannotBeReadIsToldAndWrittenAgain) {
  TempFolder temp;
  const RunConfig config = Quick(temp.path(), "run", {"train.steps=4"});
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  const std::string path = config.run.dir + "/result.json";
  const std::string whole = ReadFileBytes(path).value();
  for (const auto& [spoilt, why] :
       {std::pair(whole.substr(0, 30), "is not JSON: column 31: "),
        {"{\"steps\": \"4\"}", "steps: is \"4\", not a whole number of 64 bits"}}) {
    ASSERT_TRUE(WriteFileAtomically(path, spoilt).ok());
    const Outcome again = TrainThreads(1, config);
    EXPECT_EQ(again.exit_code, 0) << again.message;
    EXPECT_TRUE(again.steps.empty());
    ASSERT_FALSE(again.said.empty());
    EXPECT_EQ(again.said[0].rfind("warning: " + path + ": " + why, 0), 0u) << again.said[0];
    EXPECT_NE(TrainThreads(1, config).message.find("finished; results in"), std::string::npos);
  }
}

TEST(Resume, AnotherConfigurationIsRefusedKeyByKey) {
  TempFolder temp;
  ASSERT_EQ(TrainThreads(1, Quick(temp.path(), "run"), 3).exit_code, 75);
  const Outcome outcome =
      TrainThreads(1, Quick(temp.path(), "run", {"optim.lr=1e-3", "model.moe.top_k=3"}));
  EXPECT_EQ(outcome.exit_code, 2);
  for (const char* part : {"optim.lr", "0.004", "0.001", "model.moe.top_k", "2 -> 3"}) {
    EXPECT_NE(outcome.message.find(part), std::string::npos) << outcome.message;
  }
  EXPECT_TRUE(outcome.steps.empty());
}

// Without its config.yaml nobody compares the keys of a run.
TEST(Resume, AShorterWindowHoldsTheNewestLosses) {
  TempFolder temp;
  const std::vector<std::string> long_window = {"train.skip.outlier_sigma=0"};
  ASSERT_EQ(TrainThreads(1, Quick(temp.path(), "run", long_window), 9).exit_code, 75);
  std::filesystem::remove(temp.path() + "/run/config.yaml");
  const std::vector<std::string> short_window = {"train.skip.outlier_sigma=0",
                                                 "train.skip.window=3"};
  const RunConfig config = Quick(temp.path(), "run", short_window);
  const Outcome outcome = TrainThreads(1, config, 10);
  ASSERT_EQ(outcome.exit_code, 75) << outcome.message;
  const auto before = ReadCheckpointPosition(Step(config, 9));
  const auto after = ReadCheckpointPosition(Step(config, 10));
  ASSERT_TRUE(before.ok() && after.ok());
  ASSERT_EQ(before->recent_losses.size(), 8u);
  EXPECT_EQ(after->recent_losses,
            (std::vector<double>{before->recent_losses[6], before->recent_losses[7],
                                 outcome.steps.at(0).loss}));
}

TEST(Resume, NeverAndMustMeanWhatTheySay) {
  TempFolder temp;
  const Outcome must = TrainThreads(1, Quick(temp.path(), "run", {"run.resume=must"}));
  EXPECT_EQ(must.exit_code, 2) << must.message;
  ASSERT_EQ(TrainThreads(1, Quick(temp.path(), "run", {"run.resume=never"}), 2).exit_code, 75);
  EXPECT_EQ(TrainThreads(1, Quick(temp.path(), "run", {"run.resume=never"}), 4).exit_code, 2);
  EXPECT_EQ(TrainThreads(1, Quick(temp.path(), "run", {"run.resume=must"}), 4).exit_code, 75);
}

// A run writes config.yaml, metrics.jsonl, result.json and documents.json: never over somebody's.
TEST(Resume, FilesThatNoRunWroteAreNotWrittenOver) {
  TempFolder temp;
  const auto refused = [&](const std::string& dir, const std::string& name,
                           const std::string& text) {
    const std::string folder = temp.path() + "/" + dir, path = folder + "/" + name;
    std::filesystem::create_directories(folder);
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
    const Outcome outcome = TrainThreads(1, Quick(temp.path(), dir), 2);
    EXPECT_EQ(outcome.exit_code, 2) << dir << ": " << outcome.message;
    EXPECT_NE(outcome.message.find(path + ": is there already, and no run wrote it"),
              std::string::npos)
        << outcome.message;
    EXPECT_EQ(ReadFileBytes(path).value_or(""), text);
  };
  refused("notes", "config.yaml", "# Mine.\ntrain:\n  steps: 7\n");
  refused("app", "config.yaml", "services:\n  web: {image: nginx}\n");
  refused("log", "metrics.jsonl", "{\"step\": 1, \"mine\": 2}\n");
  refused("survey", "result.json", "{\"answer\": 42}\n");
  refused("library", "documents.json", "[]\n");
  // What a run wrote that came no further, it goes on from.
  const RunConfig config = Quick(temp.path(), "begun");
  std::filesystem::create_directories(config.run.dir);
  ASSERT_TRUE(WriteFileAtomically(config.run.dir + "/config.yaml", DumpConfig(config)).ok());
  EXPECT_EQ(TrainThreads(1, config, 2).exit_code, 75);
}

TEST(Resume, MovedDataIsTheSameDataAndOtherDataIsNot) {
  TempFolder temp;
  ASSERT_EQ(TrainThreads(1, Quick(temp.path(), "run"), 2).exit_code, 75);
  std::filesystem::copy(temp.path() + "/train", temp.path() + "/moved",
                        std::filesystem::copy_options::recursive);
  EXPECT_EQ(TrainThreads(1, Quick(temp.path(), "run", {"data.train=" + temp.path() + "/moved"}), 4)
                .exit_code,
            75);
  const Outcome other =
      TrainThreads(1, Quick(temp.path(), "run", {"data.train=" + temp.path() + "/held_out"}), 6);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.message.find("other data"), std::string::npos) << other.message;
}

// Scoring during a run reads it and changes nothing.
TEST(Resume, EvaluationLeavesTheBitsAlone) {
  TempFolder temp;
  const RunConfig plain = Quick(temp.path(), "plain", {"train.steps=10"});
  const RunConfig scored =
      Quick(temp.path(), "scored",
            {"train.steps=10", "evaluate.every=3",
             "evaluate.sets=[{name: held_out, data: " + temp.path() + "/held_out, sequences: 7}]"});
  ASSERT_EQ(TrainThreads(2, plain).exit_code, 0);
  const Outcome outcome = TrainThreads(2, scored);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  EXPECT_EQ(CheckpointState(Step(plain, 10)), CheckpointState(Step(scored, 10)));
}

TEST(Resume, AStageStartsFromAnotherRunAndGoesOnFromItsOwn) {
  TempFolder temp;
  const RunConfig donor = Quick(temp.path(), "donor");
  ASSERT_EQ(TrainThreads(1, donor, 20).exit_code, 75);
  const std::vector<std::string> heir_keys = {"stages=[{name: heir, init_from: " + donor.run.dir +
                                              ", steps: 10}]"};
  const RunConfig heir = Quick(temp.path(), "heir", heir_keys);
  const Outcome first = TrainThreads(1, heir, 4);
  ASSERT_EQ(first.exit_code, 75) << first.message;
  EXPECT_EQ(first.steps.front().step, 1);
  // Trained already: far below the first loss of a fresh run.
  EXPECT_LT(first.steps.front().loss, 4.5);
  std::filesystem::remove_all(donor.run.dir);
  const Outcome second = TrainThreads(1, heir);
  ASSERT_EQ(second.exit_code, 0) << second.message;
  EXPECT_EQ(second.steps.front().step, 5);
}

}  // namespace
}  // namespace mneme
