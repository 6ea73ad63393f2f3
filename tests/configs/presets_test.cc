// Every file under configs/ loads, and the named presets say what the paper says.
#include <algorithm>
#include <filesystem>

#include "configs/load.h"
#include "configs/validate.h"
#include "gtest/gtest.h"

namespace mneme {
namespace {

std::string Preset(const std::string& name) {
  return std::string(MNEME_SOURCE_DIR) + "/configs/" + name;
}

RunConfig MustLoad(const std::string& name, const std::vector<std::string>& overrides = {}) {
  absl::StatusOr<RunConfig> config = LoadConfig(Preset(name), overrides);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : RunConfig{};
}

TEST(Presets, EveryFileLoadsAndRoundTrips) {
  int files = 0;
  std::vector<std::filesystem::directory_entry> entries;
  for (const char* folder : {"models", "runs"}) {
    for (const auto& entry : std::filesystem::directory_iterator(Preset(folder)))
      entries.push_back(entry);
  }
  for (const auto& entry : entries) {
    ++files;
    const auto config = LoadConfig(entry.path().string(), {});
    ASSERT_TRUE(config.ok()) << config.status();
    const auto back = ParseConfig(DumpConfig(*config), entry.path().string());
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_TRUE(CompareConfigs(*config, *back).empty()) << entry.path();
  }
  EXPECT_GE(files, 14);
}

TEST(Presets, EveryRunIsCompleteForOneRank) {
  for (const auto& entry : std::filesystem::directory_iterator(Preset("runs"))) {
    std::vector<std::string> overrides;
    if (entry.path().stem() == "long_context") overrides = {"data.train=somewhere"};
    const auto config = LoadConfig(entry.path().string(), overrides, 1);
    EXPECT_TRUE(config.ok()) << config.status();
  }
}

TEST(Presets, TinyIsTheSmallestRun) {
  const RunConfig tiny = MustLoad("runs/tiny.yaml");
  EXPECT_EQ(tiny.train.batch_sequences, 24);
  for (const int world : {1, 2, 3, 4, 6, 8, 12, 24}) {
    RunConfig on = tiny;
    EXPECT_TRUE(ValidateForWorld(on, world).ok()) << world;
  }
}

TEST(Presets, ThePapersLargeModels) {
  for (const char* name : {"dense_4b", "moe_27b", "engram_27b", "engram_40b"}) {
    const RunConfig c = MustLoad("models/" + std::string(name) + ".yaml");
    EXPECT_EQ(c.model.layers, 30);
    EXPECT_EQ(c.model.hidden, 2560);
    EXPECT_EQ(c.model.dense_width, 12288);
    EXPECT_EQ(c.model.mla.heads, 32);
    EXPECT_EQ(c.model.mla.kv_lora_rank, 512);
    EXPECT_EQ(c.model.mla.qk_nope, 128);
    EXPECT_EQ(c.model.mla.qk_rope, 64);
    EXPECT_EQ(c.model.mla.v_head, 128);
    EXPECT_EQ(c.model.mhc.streams, 4);
    EXPECT_EQ(c.model.vocab_size, 129280);
    EXPECT_EQ(c.train.steps, 50000);
    EXPECT_EQ(c.train.batch_sequences, 1280);
    EXPECT_EQ(c.optim.lr, 4e-4);
    EXPECT_EQ(c.optim.schedule.warmup, 2000);
  }
  EXPECT_EQ(MustLoad("models/dense_4b.yaml").model.moe.experts, 0);
  EXPECT_EQ(MustLoad("models/moe_27b.yaml").model.moe.experts, 72);
  const RunConfig e40 = MustLoad("models/engram_40b.yaml");
  EXPECT_EQ(e40.model.moe.experts, 55);
  EXPECT_EQ(e40.model.engram.blocks, (std::vector<int64_t>{1, 14}));
  EXPECT_EQ(e40.model.engram.vocab_size, std::vector<int64_t>{7239680});
  EXPECT_EQ(MustLoad("models/engram_27b.yaml").model.engram.vocab_size,
            std::vector<int64_t>{2262400});
}

// Table sizes of the sweep follow from the experts that were given up (arXiv 2601.07372).
TEST(Presets, SweepTablesHoldWhatTheExpertsGaveUp) {
  for (const char* name : {"sweep_2e20", "sweep_6e20"}) {
    const ModelConfig moe = MustLoad("models/" + std::string(name) + ".yaml").model;
    const ModelConfig engram = MustLoad("models/" + std::string(name) + "_engram.yaml").model;
    const int64_t freed = (moe.moe.experts - engram.moe.experts) *
                          (moe.layers - moe.leading_dense) * 3 * moe.hidden * moe.moe.expert_width;
    EXPECT_EQ(engram.engram.vocab_size[0] * engram.engram.d_mem * 2, freed) << name;
  }
}

TEST(Presets, HundredBillionRows) {
  const RunConfig c = MustLoad("runs/engram_100b_rows.yaml");
  const EngramConfig& e = c.model.engram;
  const auto tables = static_cast<int64_t>(e.blocks.size() * e.orders.size()) * e.heads;
  EXPECT_EQ(tables, 32);
  EXPECT_GE(tables * e.vocab_size[0], 100'000'000'000);
  EXPECT_EQ(e.d_mem / (static_cast<int64_t>(e.orders.size()) * e.heads), 16);
  EXPECT_EQ(e.table.store, "lazy");
  EXPECT_GE(c.stages[0].steps * c.stages[0].batch_sequences * c.stages[0].sequence_length,
            2'000'000);
}

// What tests/bench and docs/results.md measure on one GPU.
TEST(Presets, SpeedRuns) {
  const RunConfig sweep = MustLoad("runs/speed_moe_335m.yaml");
  EXPECT_EQ(sweep.train.batch_sequences * sweep.train.sequence_length, 32'768);
  EXPECT_EQ(sweep.model.moe.experts, 64);
  EXPECT_EQ(sweep.model.mhc.streams, 1);
  EXPECT_TRUE(sweep.model.engram.blocks.empty());
  RunConfig whole = MustLoad("runs/speed_engram_335m.yaml");
  EXPECT_EQ(whole.model.mhc.streams, 4);
  EXPECT_FALSE(whole.model.engram.blocks.empty());
  whole.run = sweep.run;
  whole.model.mhc = sweep.model.mhc;
  whole.model.engram = sweep.model.engram;
  EXPECT_TRUE(CompareConfigs(sweep, whole).empty());

  const RunConfig slice = MustLoad("runs/speed_27b_slice.yaml");
  EXPECT_EQ(slice.train.batch_sequences * slice.train.sequence_length, 16'384);
  EXPECT_EQ(slice.model.layers, 4);
  EXPECT_EQ(slice.model.mla.q_lora_rank, 768);
  EXPECT_EQ(slice.optim.matrices, "adamw");
  const EngramConfig& engram = MustLoad("runs/speed_engram_27b_slice.yaml").model.engram;
  EXPECT_EQ(engram.blocks, std::vector<int64_t>{1});
  EXPECT_EQ(2 * engram.heads * engram.vocab_size[0], 36'198'400);
  EXPECT_EQ(engram.d_mem / (2 * engram.heads), 80);
}

TEST(Presets, WholeModelsAreTimedAlike) {
  const RunConfig engram = MustLoad("runs/speed_engram_27b.yaml");
  EXPECT_EQ(engram.train.batch_sequences * engram.train.sequence_length, 524'288);
  EXPECT_EQ(engram.train.micro_batch * engram.train.sequence_length, 8'192);
  EXPECT_EQ(engram.optim.matrices, "muon");
  EXPECT_EQ(engram.parallel.memory, 0) << "all ranks";
  RunConfig moe = MustLoad("runs/speed_moe_27b.yaml");
  EXPECT_TRUE(moe.model.engram.blocks.empty());
  EXPECT_EQ(moe.model.moe.experts, 72);
  moe.run = engram.run;
  moe.model.moe.experts = engram.model.moe.experts;
  moe.model.engram = engram.model.engram;
  moe.parallel.memory = engram.parallel.memory;
  EXPECT_TRUE(CompareConfigs(engram, moe).empty());

  const RunConfig context = MustLoad("runs/speed_long_engram_27b.yaml");
  const StageConfig papers = MustLoad("runs/long_context.yaml").stages[0];
  ASSERT_EQ(context.stages.size(), 1u);
  EXPECT_EQ(context.stages[0].sequence_length * context.stages[0].batch_sequences, 524'288);
  EXPECT_EQ(context.stages[0].lr, papers.lr);
  EXPECT_EQ(context.stages[0].yarn.scale, papers.yarn.scale);
  EXPECT_EQ(context.stages[0].yarn.mscale, papers.yarn.mscale);
}

TEST(Presets, LongContextIsThePapers) {
  const RunConfig c = MustLoad("runs/long_context.yaml");
  ASSERT_EQ(c.stages.size(), 1u);
  EXPECT_EQ(c.stages[0].sequence_length, 32768);
  EXPECT_EQ(c.stages[0].yarn.scale, 10.0);
  EXPECT_EQ(c.stages[0].yarn.mscale, 0.707);
  EXPECT_EQ(c.stages[0].yarn.original_length, 4096);
  EXPECT_EQ(c.stages[0].lr, 4e-5);
  EXPECT_EQ(c.stages[0].batch_sequences, 183);
}

}  // namespace
}  // namespace mneme
