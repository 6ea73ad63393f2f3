// Bad YAML and bad overrides: one message that names file, line, key, the nearest known key and
// both numbers.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "configs/load.h"
#include "gtest/gtest.h"
#include "kernels/core/random.h"
#include "tests/configs/files.h"

namespace mneme {
namespace {

struct BadInput {
  const char* name;
  const char* yaml;
  std::vector<std::string> overrides;
  std::vector<std::string> expected;  // parts of the message
  int world = 0;
};

class BadInputTest : public testing::TestWithParam<BadInput> {};

TEST_P(BadInputTest, IsRefusedWithAMessageThatHelps) {
  const BadInput& bad = GetParam();
  TestFolder folder;
  const std::string path = folder.Write("run.yaml", bad.yaml);
  const auto config = LoadConfig(path, bad.overrides, bad.world);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(config.status().message());
  for (const std::string& part : bad.expected) {
    EXPECT_NE(message.find(part), std::string::npos) << "missing: " << part << "\nin: " << message;
  }
  // Nothing was written beside the file.
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
    files += entry.is_regular_file() ? 1 : 0;
  }
  EXPECT_EQ(files, 1u);
}

const BadInput kCases[] = {
    {"unknown_key",
     "model:\n  layerz: 3\n",
     {},
     {"run.yaml:2: model.layerz: unknown key; nearest: model.layers"}},
    {"unknown_section",
     "modle:\n  layers: 3\n",
     {},
     {"run.yaml:1: modle: unknown key; nearest: model"}},
    {"key_in_the_wrong_section",
     "model:\n  lr: 3\n",
     {},
     {"run.yaml:2: model.lr", "nearest: optim.lr"}},
    {"key_without_its_section",
     "batch_sequences: 3\n",
     {},
     {"run.yaml:1", "nearest: train.batch_sequences"}},
    {"swapped_letters",
     "model: {mla: {haeds: 3}}\n",
     {},
     {"run.yaml:1: model.mla.haeds", "model.mla.heads"}},
    {"dotted_key_in_a_file", "model.layers: 3\n", {}, {"run.yaml:1: model.layers", "files nest"}},
    {"text_for_a_number",
     "model:\n\n  layers: abc\n",
     {},
     {"run.yaml:3: model.layers: 'abc' is not a whole number"}},
    {"half_for_a_whole",
     "train: {steps: 1.5}\n",
     {},
     {"run.yaml:1: train.steps: '1.5' is not a whole number"}},
    {"too_large", "train: {steps: 1e19}\n", {}, {"train.steps: '1e19' does not fit into 64 bits"}},
    {"infinite_rate",
     "optim: {lr: .inf}\n",
     {},
     {"run.yaml:1: optim.lr: '.inf' is not a finite number"}},
    {"yes_for_true",
     "data: {bos: yes}\n",
     {},
     {"run.yaml:1: data.bos: 'yes' is neither true nor false"}},
    {"list_for_a_number",
     "model: {layers: [3]}\n",
     {},
     {"model.layers: expects a whole number, found a list"}},
    {"section_for_a_number",
     "model: {layers: {a: 3}}\n",
     {},
     {"model.layers: expects a whole number, found a section"}},
    {"number_for_a_section", "model: 3\n", {}, {"run.yaml:1: model: expects a section, found '3'"}},
    {"nothing_for_a_number",
     "model: {layers: }\n",
     {},
     {"model.layers: expects a whole number, found nothing"}},
    {"nothing_for_a_list",
     "data: {train: }\n",
     {},
     {"data.train: expects a list of paths, found nothing; [] is"}},
    {"bad_element",
     "model: {engram: {blocks: [1, x]}}\n",
     {},
     {"model.engram.blocks: 'x' is not a whole number"}},
    {"wrong_choice",
     "model: {moe: {score: sigmoyd}}\n",
     {},
     {"'sigmoyd' is not one of sigmoid, softmax; nearest: sigmoid"}},
    {"wrong_choice_in_a_list",
     "train: {recompute: [atention]}\n",
     {},
     {"train.recompute", "nearest: attention"}},
    {"duplicate_key",
     "model:\n  layers: 3\n  hidden: 8\n  layers: 4\n",
     {},
     {"run.yaml:4: model.layers: stands twice; first in line 2"}},
    {"not_yaml", "model: {layers: 3\ntrain: [\n", {}, {"run.yaml:", "not YAML"}},
    {"tabs", "model:\n\tlayers: 3\n", {}, {"run.yaml:2: not YAML"}},
    {"list_for_a_config", "- 1\n- 2\n", {}, {"run.yaml", "a config is keys and values"}},
    {"two_documents",
     "model: {layers: 3}\n---\nmodel: {layers: 4}\n",
     {},
     {"run.yaml:3: a second document"}},
    {"endless_alias", "model: &m\n  mla: *m\n", {}, {"run.yaml"}},
    {"include_missing",
     "include: nowhere.yaml\n",
     {},
     {"run.yaml:1: include:", "nowhere.yaml: no such file; nearest:"}},
    {"include_itself", "include: run.yaml\n", {}, {"run.yaml:1: include:", "includes itself"}},
    {"include_folder", "include: .\n", {}, {"run.yaml:1: include:", "is a folder"}},
    {"include_map", "include: {a: b}\n", {}, {"run.yaml:1: include:"}},
    {"variable_unset",
     "data: {train: \"${MNEME_NO_SUCH}/x\"}\n",
     {},
     {"run.yaml:1: data.train", "MNEME_NO_SUCH, which is not set"}},
    {"stages_no_list",
     "stages: {steps: 3}\n",
     {},
     {"run.yaml:1: stages: expects a list of sections"}},
    {"stage_no_section", "stages: [3]\n", {}, {"run.yaml:1: stages.0: expects a section"}},
    {"stage_unknown_key",
     "stages:\n  - steps: 3\n  - stepz: 4\n",
     {},
     {"run.yaml:3: stages.1.stepz", "stages.1.steps"}},
    {"stage_steps_and_tokens",
     "stages: [{steps: 3, tokens: 1e6, sequence_length: 100, batch_sequences: 10}]\n",
     {},
     {"stages.0.tokens: 1000000 tokens are 1000 steps of 10 x 100, but steps says 3"}},
    {"stage_late_donor",
     "stages: [{steps: 3}, {steps: 3, init_from: x}]\n",
     {},
     {"stages.1.init_from", "only the first"}},
    {"yarn_beta",
     "stages: [{steps: 3, yarn: {scale: 2, alpha: 4, beta: 3}}]\n",
     {},
     {"beta 3 must be above alpha 4"}},
    {"override_unknown",
     "",
     {"model.layerz=3"},
     {"command line: model.layerz: unknown key; nearest: model.layers"}},
    {"override_type",
     "",
     {"--train.steps=many"},
     {"command line: train.steps: 'many' is not a whole number"}},
    {"override_no_value",
     "",
     {"train"},
     {"command line: 'train' is neither an option nor key=value"}},
    {"override_empty_part",
     "",
     {"train..steps=3"},
     {"command line: train..steps: is not a dotted key"}},
    {"override_bad_yaml",
     "",
     {"model.engram.blocks=[1"},
     {"command line: model.engram.blocks: '[1': not YAML"}},
    {"override_stage_index",
     "stages: [{steps: 3}]\n",
     {"stages.1.steps=3"},
     {"command line: stages.1.steps: '1' is no element: the list has 1"}},
    {"top_k",
     "model:\n  moe:\n    experts: 4\n    top_k: 6\n",
     {},
     {"run.yaml:4: model.moe.top_k: top_k 6 is more than the 4 experts"}},
    {"groups",
     "model: {moe: {experts: 10, groups: 4}}\n",
     {},
     {"10 experts do not fall into 4 equal groups"}},
    {"groups_kept",
     "model: {moe: {experts: 16, groups: 8, groups_kept: 1, top_k: 4}}\n",
     {},
     {"hold 2, fewer than top_k 4"}},
    {"engram_block",
     "model:\n  layers: 4\n  engram:\n    blocks: [1, 4]\n    d_mem: 16\n    vocab_size: 100\n",
     {},
     {"run.yaml:4: model.engram.blocks: block 4 does not exist: the 4 layers are blocks 0 to 3"}},
    {"engram_d_mem",
     "model: {engram: {blocks: [1], d_mem: 100, vocab_size: 100}}\n",
     {},
     {"d_mem 100 is not a multiple of 2 orders x 8 heads = 16; nearest: 96 or 112"}},
    {"engram_orders",
     "model: {engram: {blocks: [1], orders: [3, 2], d_mem: 16, vocab_size: 100}}\n",
     {},
     {"must rise, but 2 follows 3"}},
    {"engram_sizes",
     "model: {engram: {blocks: [1], d_mem: 16, vocab_size: [9, 9, 9]}}\n",
     {},
     {"has 3 numbers for 2 orders"}},
    {"engram_no_size",
     "model: {engram: {blocks: [1], d_mem: 16}}\n",
     {},
     {"run.yaml:1: model.engram", "vocab_size", "at least 2"}},
    {"engram_layer_ids",
     "model: {engram: {blocks: [1, 2], hash_layer_ids: [1], d_mem: 16, vocab_size: 99}}\n",
     {},
     {"has 1 numbers for 2 blocks"}},
    {"engram_overflow",
     "model: {engram: {blocks: [1], d_mem: 1024, vocab_size: 1e18}}\n",
     {},
     {"64 bits"}},
    {"lazy_decay",
     "model: {engram: {blocks: [1], d_mem: 16, vocab_size: 99, table: {weight_decay: 0.1, store: "
     "lazy}}}\n",
     {},
     {"is 0.1, but store: lazy"}},
    {"odd_rotary", "model: {mla: {qk_rope: 7}}\n", {}, {"model.mla.qk_rope: is 7", "6 or 8"}},
    {"no_layers", "model: {layers: 0}\n", {}, {"model.layers: is 0; must be at least 1"}},
    {"too_wide",
     "model: {hidden: 1Ti}\n",
     {},
     {"model.hidden: is 1099511627776; must be at most 1048576"}},
    {"streams_without_end",
     "model: {mhc: {streams: 1Gi}}\n",
     {},
     {"model.mhc.streams: is 1073741824"}},
    {"too_many_weights",
     "model: {hidden: 1Mi, layers: 100, moe: {experts: 60000, top_k: 2, expert_width: 65536}}\n",
     {},
     {"run.yaml:1: model.layers: makes",
      "weights of model.layers x model.moe.experts x "
      "model.hidden x model.moe.expert_width; must be at most 1e+15"}},
    {"too_many_tokens",
     "train: {steps: 1Ti, sequence_length: 1Mi, batch_sequences: 4}\n",
     {},
     {"train.steps: makes",
      "tokens of train.steps x train.batch_sequences x "
      "train.sequence_length; must be at most 1e+17"}},
    {"batch_too_large",
     "train: {sequence_length: 1Gi, batch_sequences: 1Gi}\n",
     {},
     {"train.batch_sequences: makes", "values of a batch"}},
    {"stage_too_large",
     "stages: [{steps: 1, sequence_length: 1Gi, batch_sequences: 1Gi}]\n",
     {},
     {"stages.0.batch_sequences: makes", "values of a batch"}},
    {"timeout_of_ages", "train: {collective_timeout: 4Pi}\n", {}, {"train.collective_timeout"}},
    {"decay_lists",
     "optim: {schedule: {decay_at: [0.5], decay_to: [0.3, 0.1]}}\n",
     {},
     {"has 1 places for the 2 rates"}},
    {"beta", "optim: {adam: {beta2: 1.0}}\n", {}, {"optim.adam.beta2: is 1; must be in [0, 1)"}},
    {"weights", "data: {train: [a, b], weights: [1]}\n", {}, {"has 1 shares for 2 corpora"}},
    {"evaluate_nothing",
     "evaluate: {every: 10}\n",
     {},
     {"every 10 steps, but evaluate.sets names none"}},
    {"set_twice",
     "evaluate: {sets: [{name: a, data: x}, {name: a, data: y}]}\n",
     {},
     {"evaluate.sets.1.name: 'a'"}},
    {"milestones",
     "train: {checkpoint_every: 30, milestone_every: 100}\n",
     {},
     {"100 is not a multiple of checkpoint_every 30"}},
    {"expert_axis",
     "model: {moe: {experts: 4, top_k: 2}}\nparallel: {expert: 8}\n",
     {},
     {"run.yaml:2: parallel.expert: an axis of 8 ranks is more than the 4 experts"}},
    {"expert_room",
     "parallel: {expert_room: 0.5}\n",
     {},
     {"run.yaml:1: parallel.expert_room: is 0.5; must be at least 1"}},
    {"batch_on_ranks",
     "train:\n  steps: 3\n  batch_sequences: 24\ndata: {train: x}\n",
     {},
     {"run.yaml:3: train.batch_sequences: 24 sequences cannot be dealt evenly to 5 ranks; nearest "
      "batches: 20 or 25; nearest numbers of ranks: 4 or 6"},
     5},
    {"large_batch_on_ranks",
     "train: {steps: 3, sequence_length: 1, batch_sequences: 1_000_000_007}\ndata: {train: x}\n",
     {},
     {"nearest numbers of ranks: 1 or 1000000007"},
     6},
    {"axis_on_ranks",
     "train: {steps: 3}\ndata: {train: x}\nparallel: {memory: 4}\n",
     {},
     {"run.yaml:3: parallel.memory: an axis of 4 does not divide 6 ranks; nearest: 3 or 6"},
     6},
    {"no_corpus", "train: {steps: 3}\n", {}, {"data.train: names no corpus"}, 1},
    {"no_steps", "data: {train: x}\n", {}, {"train.steps: is 0; a run needs at least 1 step"}, 1},
};

INSTANTIATE_TEST_SUITE_P(Cases, BadInputTest, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(BadInput, EveryFaultIsReportedAtOnceEachOnItsLine) {
  TestFolder folder;
  folder.Write("base.yaml", "optim:\n  lrr: 1\n");
  const std::string path =
      folder.Write("run.yaml",
                   "include: base.yaml\nmodel:\n  layers: x\n  hiden: 3\n  moe: {experts: 4}\n"
                   "train:\n  steps: -1\n");
  const auto config = LoadConfig(path, {"data.trian=x"});
  ASSERT_FALSE(config.ok());
  const std::string message(config.status().message());
  for (const char* part :
       {"base.yaml:2: optim.lrr", "run.yaml:3: model.layers", "run.yaml:4: model.hiden",
        "run.yaml:5: model.moe.top_k: top_k 6 is more than the 4 experts",
        "run.yaml:7: train.steps", "command line: data.trian: unknown key; nearest: data.train"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nin: " << message;
  }
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 5);
}

TEST(BadInput, ARuleIsNotJudgedOnAKeyThatCouldNotBeRead) {
  TestFolder folder;
  const std::string path = folder.Write(
      "run.yaml", "model: {layers: x, engram: {blocks: [9], d_mem: 16, vocab_size: 99}}\n");
  const auto config = LoadConfig(path, {});
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().message().find("does not exist"), absl::string_view::npos)
      << config.status();
}

// Bytes of real files deleted, doubled, flipped: whatever comes of it, an answer comes.
TEST(BadInput, DamagedFilesNeverEndInACrash) {
  TestFolder folder;
  std::ifstream in(std::string(MNEME_SOURCE_DIR) + "/configs/models/paper_base.yaml");
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  ASSERT_GT(whole.size(), 400u);
  const std::string odd =
      "{}[]:,-&*!|>'\"%@`#?\t\n\x01\xff\0~<"
      "9e";
  const RandomKey key = MakeKey(7, "damage");
  int refused = 0;
  for (uint64_t round = 0; round < 600; ++round) {
    std::string text = whole;
    for (uint64_t i = 0; i < 1 + round % 4; ++i) {
      const auto draw = [&](uint64_t k, size_t n) {
        return static_cast<size_t>(RandomInt(key, 64 * round + 8 * i + k, static_cast<int64_t>(n)));
      };
      const size_t at = draw(0, text.size());
      const size_t length = std::min(text.size() - at, 1 + draw(1, 8));
      if (draw(2, 3) == 0)
        text.erase(at, length);
      else if (draw(2, 3) == 1)
        text.insert(at, text.substr(at, length));
      else
        text[at] = odd[draw(3, odd.size())];
    }
    refused += ParseConfig(text, "damaged.yaml").ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 100);
  for (const std::string& deep :
       {std::string(200000, '['), std::string(200000, '{'), std::string(100000, '-') + " x",
        std::string(1000000, 'a'), std::string("\0\0\0", 3)}) {
    EXPECT_FALSE(ParseConfig(deep, "deep.yaml").ok());
  }
  std::string laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    const std::string before = std::string("*") + static_cast<char>(c - 1);
    laughs += std::string(1, c) + ": &" + c + " [" + before;
    for (int i = 0; i < 9; ++i) laughs += ", " + before;
    laughs += "]\n";
  }
  EXPECT_FALSE(ParseConfig(laughs, "laughs.yaml").ok());
}

TEST(BadInput, AMissingFileNamesTheNearest) {
  TestFolder folder;
  folder.Write("tiny.yaml", "");
  const auto config = LoadConfig(folder.path() + "/tinny.yaml", {});
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(config.status().message().find("tinny.yaml: no such file; nearest: "),
            absl::string_view::npos);
  EXPECT_NE(config.status().message().find("/tiny.yaml"), absl::string_view::npos);
  EXPECT_FALSE(LoadConfig(folder.path(), {}).ok());
}

}  // namespace
}  // namespace mneme
