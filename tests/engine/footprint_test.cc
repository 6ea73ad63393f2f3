#include "engine/forecast/footprint.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

// What the pool counted as the most of a run, and what was predicted for it.
struct Peaks {
  double measured = 0.0, predicted = 0.0;
  double taken = 0.0, needs = 0.0;  // with freed blocks
};

Peaks PeaksOf(int ranks, const std::vector<std::string>& overrides) {
  TempFolder temp;
  std::vector<std::string> all = {"train.precision=f32", "train.steps=2", "evaluate.sets=[]",
                                  "model.engram.table.store=resident"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  const RunConfig config = TinyRun(temp.path(), all);
  const Outcome outcome = TrainThreads(ranks, config);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.status << outcome.message;
  Peaks peaks;
  for (const StepReport& step : outcome.steps) {
    for (const auto& [name, value] : step.more) {
      if (name == "memory/peak_bytes") peaks.measured = std::max(peaks.measured, value);
      if (name == "memory/taken_bytes") peaks.taken = std::max(peaks.taken, value);
    }
  }
  const auto layout = MakeLayout(config.parallel, ranks);
  const int64_t vocabulary = config.model.vocab_size > 0 ? config.model.vocab_size : 258;
  const Footprint footprint = PredictFootprint(config, *layout, vocabulary);
  peaks.predicted = static_cast<double>(footprint.total());
  peaks.needs = static_cast<double>(footprint.needs());
  return peaks;
}

// Within 5 % on every kind of model and of run, since a step is rehearsed with the code that runs.
TEST(Footprint, PredictsTheMostOfARun) {
  const std::vector<std::vector<std::string>> runs = {
      {},
      {"model.mhc.streams=4", "model.hidden=96"},
      {"model.mhc.streams=1"},
      {"train.recompute=[all]"},
      {"train.recompute=[attention]"},
      {"train.recompute=[ffn, mhc]"},
      {"optim.matrices=adamw", "train.micro_batch=4"},
      {"train.sequence_length=1024", "train.micro_batch=2"},
      {"model.engram.blocks=[]"},
      {"model.moe.experts=0", "model.layers=5"},
      {"model.vocab_size=8192"},
      {"model.mla.q_lora_rank=24", "model.mhc.readout=mean", "model.moe.sequence_balance=0.001"},
      {"model.engram.gate.branches=single", "model.engram.gate.transform=none"},
      {"model.engram.gate.branches=none", "model.engram.conv.enabled=false"},
      {"model.engram.vocab_size=40000", "model.engram.d_mem=64"},
      {"model.engram.table.adam=touched", "train.micro_batch=1"},
      {"train.precision=f64"},
      {"model.hidden=192", "model.dense_width=512", "model.moe.shared=0"}};
  for (const std::vector<std::string>& run : runs) {
    const Peaks peaks = PeaksOf(1, run);
    EXPECT_NEAR(peaks.predicted / peaks.measured, 1.0, 0.05)
        << (run.empty() ? "as it is" : run.front()) << ": " << peaks.measured;
    EXPECT_NEAR(peaks.needs / peaks.taken, 1.0, 0.05)
        << (run.empty() ? "as it is" : run.front()) << ": " << peaks.taken << " taken";
  }
}

TEST(Footprint, PredictsTheMostOfARunOnSeveralRanks) {
  for (const std::vector<std::string>& run : std::vector<std::vector<std::string>>{
           {"parallel.expert=2", "parallel.memory=2", "parallel.expert_room=1"},
           {"optim.matrices=adamw"}}) {
    const Peaks peaks = PeaksOf(2, run);
    EXPECT_NEAR(peaks.predicted / peaks.measured, 1.0, 0.1) << run.front();
  }
}

// A rank may get as much as it has room for at once: that is in the prediction, and more is not
// taken, whatever the router does.
TEST(Footprint, CountsTheRoomOfCrowdedExperts) {
  double needs = 0.0;
  for (const char* room : {"1", "1.25", "2"}) {
    const Peaks peaks =
        PeaksOf(2, {"parallel.expert=2", std::string("parallel.expert_room=") + room});
    EXPECT_LT(peaks.measured, 1.02 * peaks.predicted) << room;
    EXPECT_GT(peaks.predicted, needs) << room;
    needs = peaks.predicted;
  }
}

TEST(Footprint, NobodyAllocatesForAPrediction) {
  TempFolder temp;
  RunConfig config = TinyRun(temp.path(), {"train.precision=f32"});
  config.model.hidden = 1 << 16;
  config.model.engram.vocab_size = {1 << 24};
  config.model.engram.table.store = "resident";
  const Device gpu{Device::Kind::kGpu, 0};
  const Footprint footprint = PredictFootprint(config, *MakeLayout({}, 1), 258, gpu);
  EXPECT_GT(footprint.total(), int64_t{40} << 30);
}

TEST(Footprint, SpreadingExpertsAndRowsShrinksARank) {
  TempFolder temp;
  RunConfig config = TinyRun(temp.path(), {"model.engram.table.store=resident"});
  const Footprint one = PredictFootprint(config, *MakeLayout(config.parallel, 4), 258);
  config.parallel = {4, 4, 1.0};
  const Footprint spread = PredictFootprint(config, *MakeLayout(config.parallel, 4), 258);
  EXPECT_LT(spread.parameters, one.parameters);
  EXPECT_LT(spread.tables, one.tables);
  EXPECT_NEAR(static_cast<double>(spread.activations), static_cast<double>(one.activations),
              0.05 * static_cast<double>(one.activations));
}

TEST(Footprint, AxesMayHaveHundredsOfRanks) {
  TempFolder temp;
  const RunConfig config = TinyRun(
      temp.path(), {"model.engram.table.store=resident", "model.moe.experts=512",
                    "train.batch_sequences=512", "parallel.expert=256", "parallel.memory=512"});
  const auto layout = MakeLayout(config.parallel, 512);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_GT(PredictFootprint(config, *layout, 258).total(), 0);
}

TEST(Footprint, ARunThatDoesNotFitIsRefusedBeforeItBegins) {
  Footprint footprint;
  footprint.parameters = int64_t{3} << 30;
  EXPECT_TRUE(CheckFits(footprint, 2, int64_t{6} << 30).ok());
  const absl::Status status = CheckFits(footprint, 2, int64_t{5} << 30);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("6.0 GiB"), std::string::npos) << status;
  EXPECT_NE(status.message().find("5.0 GiB"), std::string::npos) << status;
  TempFolder temp;
  const Outcome outcome =
      TrainThreads(1, TinyRun(temp.path(), {"model.hidden=200000", "model.dense_width=1000000"}));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.message.find("not enough memory"), std::string::npos) << outcome.message;
}

TEST(Footprint, TheMachineSaysWhatIsFree) {
  EXPECT_GT(AvailableMemory(), int64_t{16} << 20);
  EXPECT_LT(AvailableMemory(), int64_t{1} << 50);
}

}  // namespace
}  // namespace mneme
