#include "configs/load.h"

#include <filesystem>

#include "gtest/gtest.h"
#include "tests/configs/files.h"

namespace mneme {
namespace {

RunConfig MustLoad(const std::string& path, const std::vector<std::string>& overrides = {}) {
  absl::StatusOr<RunConfig> config = LoadConfig(path, overrides);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : RunConfig{};
}

TEST(LoadConfig, TheFileWinsOverItsIncludesAndLaterIncludesOverEarlier) {
  TestFolder folder;
  folder.Write("a.yaml", "model: {layers: 2, hidden: 32}\noptim: {lr: 1e-3}\n");
  folder.Write("sub/b.yaml", "model: {hidden: 64, mla: {heads: 2}}\n");
  const std::string path =
      folder.Write("run.yaml", "include: [a.yaml, sub/b.yaml]\nmodel: {mla: {heads: 8}}\n");
  const RunConfig config = MustLoad(path);
  EXPECT_EQ(config.model.layers, 2);
  EXPECT_EQ(config.model.hidden, 64);
  EXPECT_EQ(config.model.mla.heads, 8);
  EXPECT_EQ(config.optim.lr, 1e-3);
}

TEST(LoadConfig, ListsOfAFileReplaceThoseOfItsInclude) {
  TestFolder folder;
  folder.Write("a.yaml",
               "model: {layers: 4, engram: {blocks: [1, 2, 3], d_mem: 16, vocab_size: 10}}\n");
  const std::string path =
      folder.Write("run.yaml", "include: a.yaml\nmodel: {engram: {blocks: [0]}}\n");
  EXPECT_EQ(MustLoad(path).model.engram.blocks, std::vector<int64_t>{0});
}

TEST(LoadConfig, AnEmptySectionWipesNothing) {
  TestFolder folder;
  folder.Write("a.yaml", "model: {layers: 7}\n");
  const std::string path = folder.Write("run.yaml", "include: a.yaml\nmodel:\n");
  EXPECT_EQ(MustLoad(path).model.layers, 7);
}

TEST(LoadConfig, OverridesWinInOrderWithAndWithoutDashes) {
  TestFolder folder;
  const std::string path = folder.Write("run.yaml", "model: {layers: 2}\n");
  const RunConfig config = MustLoad(
      path, {"model.layers=3", "--model.layers=5", "model.mla.rope_theta=5_000", "run.dir=x=y",
             "train.steps=4Ki", "model.moe={experts: 4, top_k: 2}", "model.engram.orders=[2, 4]"});
  EXPECT_EQ(config.model.layers, 5);
  EXPECT_EQ(config.model.mla.rope_theta, 5000.0);
  EXPECT_EQ(config.train.steps, 4096);
  EXPECT_EQ(config.model.moe.experts, 4);
  EXPECT_EQ(config.model.engram.orders, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(std::filesystem::path(config.run.dir).filename(), "x=y");
}

TEST(LoadConfig, OneValueStandsForAListOfOne) {
  TestFolder folder;
  const std::string path = folder.Write(
      "run.yaml",
      "data: {train: corpus}\nmodel: {engram: {blocks: 1, d_mem: 16, vocab_size: 1e3}}\n");
  const RunConfig config = MustLoad(path);
  EXPECT_EQ(config.data.train, std::vector<std::string>{folder.path() + "/corpus"});
  EXPECT_EQ(config.model.engram.blocks, std::vector<int64_t>{1});
  EXPECT_EQ(config.model.engram.vocab_size, std::vector<int64_t>{1000});
}

TEST(LoadConfig, PathsStartWhereTheyAreNamed) {
  TestFolder folder;
  setenv("MNEME_TEST_CORPUS", "/data/text", 1);
  folder.Write("sub/base.yaml", "data: {train: [near, ../up, \"${MNEME_TEST_CORPUS}/x\"]}\n");
  const std::string path = folder.Write("run.yaml", "include: sub/base.yaml\n");
  EXPECT_EQ(MustLoad(path).data.train,
            (std::vector<std::string>{folder.path() + "/sub/near", folder.path() + "/up",
                                      "/data/text/x"}));
  const std::string here = std::filesystem::current_path().string();
  const RunConfig overridden = MustLoad(path, {"data.train=[near]"});
  EXPECT_EQ(overridden.data.train, std::vector<std::string>{here + "/near"});
  EXPECT_EQ(overridden.run.dir, here + "/runs/run");
}

TEST(LoadConfig, AFileWithoutStagesIsOneStage) {
  TestFolder folder;
  const std::string path =
      folder.Write("run.yaml",
                   "data: {train: c, seed: 3}\n"
                   "train: {steps: 7, sequence_length: 32, batch_sequences: 6}\n"
                   "optim: {lr: 2e-3, schedule: {shape: cosine, warmup: 2}}\n");
  const RunConfig config = MustLoad(path);
  ASSERT_EQ(config.stages.size(), 1u);
  const StageConfig& stage = config.stages[0];
  EXPECT_EQ(stage.steps, 7);
  EXPECT_EQ(stage.sequence_length, 32);
  EXPECT_EQ(stage.batch_sequences, 6);
  EXPECT_EQ(stage.lr, 2e-3);
  EXPECT_EQ(stage.schedule.shape, "cosine");
  EXPECT_EQ(stage.schedule.warmup, 2);
  EXPECT_EQ(stage.data.train, config.data.train);
  EXPECT_EQ(stage.data.seed, 3);
  EXPECT_EQ(stage.yarn.scale, 1.0);
}

TEST(LoadConfig, StagesInheritWhatTheyDoNotState) {
  TestFolder folder;
  const std::string path =
      folder.Write("run.yaml",
                   "data: {train: c, bos: true}\n"
                   "train: {steps: 7, sequence_length: 32, batch_sequences: 6}\n"
                   "optim: {lr: 2e-3, schedule: {shape: constant, warmup: 2}}\n"
                   "stages:\n"
                   "  - {name: one}\n"
                   "  - {tokens: 1000, sequence_length: 64, lr: 1e-4, yarn: {scale: 4},\n"
                   "     data: {seed: 9}, schedule: {warmup: 0}}\n"
                   "  - {steps: 2}\n");
  const RunConfig config = MustLoad(path);
  ASSERT_EQ(config.stages.size(), 3u);
  EXPECT_EQ(config.stages[0].steps, 7);
  EXPECT_EQ(config.stages[1].steps, 3);  // 1,000 tokens of 6 x 64, rounded up
  EXPECT_EQ(config.stages[1].tokens, 0);
  EXPECT_EQ(config.stages[1].lr, 1e-4);
  EXPECT_EQ(config.stages[1].data.train, config.data.train);
  EXPECT_TRUE(config.stages[1].data.bos);
  EXPECT_EQ(config.stages[1].data.seed, 9);
  EXPECT_EQ(config.stages[1].schedule.shape, "constant");
  EXPECT_EQ(config.stages[1].schedule.warmup, 0);
  EXPECT_EQ(config.stages[2].lr, 2e-3);
  EXPECT_EQ(config.stages[2].sequence_length, 32);
  EXPECT_EQ(config.stages[2].yarn.scale, 4.0);  // kept from the stage before
  EXPECT_EQ(MustLoad(path, {"stages.2.steps=11"}).stages[2].steps, 11);
}

TEST(LoadConfig, AnchorsAndAliasesWork) {
  TestFolder folder;
  const std::string path = folder.Write(
      "run.yaml",
      "model: {engram: {blocks: &b [1, 2], hash_layer_ids: *b, d_mem: 16, vocab_size: 9}}\n");
  EXPECT_EQ(MustLoad(path).model.engram.hash_layer_ids, (std::vector<int64_t>{1, 2}));
}

TEST(LoadConfig, AnEmptyFileIsTheDefaults) {
  TestFolder folder;
  const RunConfig config = MustLoad(folder.Write("run.yaml", "# nothing\n"));
  EXPECT_EQ(config.model.layers, ModelConfig{}.layers);
}

}  // namespace
}  // namespace mneme
