#include "engine/convert/foreign_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "configs/load.h"
#include "data/files.h"
#include "engine/convert/model_tensors.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using testing::HasSubstr;

// config.json as the two models' own folders have it.
std::string Fixture(const std::string& name) {
  return ReadFileBytes(MNEME_FIXTURES "/configs/" + name + ".json").value_or("");
}
const std::string kLite = Fixture("v2_lite");
const std::string kThird = Fixture("v3");

absl::StatusOr<ForeignConfig> Read(const std::string& text) {
  const auto json = ParseJson(text);
  EXPECT_TRUE(json.ok()) << json.status();
  return ReadForeignConfig(*json, "config.json");
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

int64_t Parameters(const ModelConfig& model) {
  int64_t sum = 0;
  for (const ModelTensor& tensor : ModelTensors(model)) {
    if (tensor.kind == "value") sum += tensor.elements();
  }
  return sum;
}

// Parameter counts: what the safetensors indices of the two models add up to.
TEST(ForeignConfig, Lite) {
  const auto lite = Read(kLite);
  ASSERT_TRUE(lite.ok()) << lite.status();
  EXPECT_EQ(Parameters(lite->model), 15706484224);
  EXPECT_EQ(lite->model.moe.score, "softmax");
  EXPECT_EQ(lite->model.moe.normalize, false);
  EXPECT_EQ(lite->model.moe.bias_update, 0.0);
  EXPECT_EQ(lite->model.moe.sequence_balance, 0.001);
  EXPECT_EQ(lite->model.mla.q_lora_rank, 0);
  EXPECT_EQ(lite->yarn.scale, 40.0);
  EXPECT_EQ(lite->yarn.mscale, 0.707);
  EXPECT_EQ(lite->sequence_length, 4096);
  EXPECT_EQ(lite->eos, 100001);
  EXPECT_EQ(ArchitectureOf(lite->model, false), "deepseek_v2");
}

TEST(ForeignConfig, Third) {
  const auto third = Read(kThird);
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(Parameters(third->model), 671026404352);
  EXPECT_EQ(third->model.moe.groups, 8);
  EXPECT_EQ(third->model.moe.groups_kept, 4);
  EXPECT_EQ(third->model.moe.route_scale, 2.5);
  EXPECT_EQ(third->prediction_layers, 1);
  EXPECT_EQ(third->scale_block, 128);
  EXPECT_EQ(third->half_split_rotary, false);
  EXPECT_EQ(ArchitectureOf(third->model, true), "deepseek_v3");
}

// What from-hf prints is a model that a run may include.
TEST(ForeignConfig, YamlReadsBackToTheSameModel) {
  TempFolder folder;
  for (const std::string& text : {kLite, kThird}) {
    const auto foreign = Read(text);
    ASSERT_TRUE(foreign.ok());
    const std::string path = folder.path() + "/model.yaml";
    std::ofstream(path) << ForeignConfigYaml(*foreign);
    const auto config = LoadConfig(path, {});
    ASSERT_TRUE(config.ok()) << config.status();
    RunConfig a, b;
    a.model = config->model;
    b.model = foreign->model;
    EXPECT_TRUE(CompareConfigs(a, b).empty());
    EXPECT_EQ(config->stages[0].yarn.scale, 40.0);
    EXPECT_EQ(config->stages[0].yarn.mscale, foreign->yarn.mscale);
    EXPECT_EQ(config->stages[0].yarn.original_length, 4096);
  }
}

TEST(ForeignConfig, RefusesByName) {
  const struct {
    std::string text, from, to, key;
  } cases[] = {
      {kLite, "\"use_cache\": true", "\"sliding_window\": 4096", "sliding_window"},
      {kLite, "\"hidden_size\": 2048,", "", "hidden_size"},
      {kLite, "\"hidden_size\": 2048", "\"hidden_size\": \"wide\"", "hidden_size"},
      {kLite, "\"hidden_size\": 2048", "\"hidden_size\": -1", "hidden_size"},
      {kLite, "\"hidden_size\": 2048", "\"hidden_size\": 99999999999999999", "hidden_size"},
      {kLite, "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "hidden_act"},
      {kLite, "\"attention_bias\": false", "\"attention_bias\": true", "attention_bias"},
      {kLite, "\"num_key_value_heads\": 16", "\"num_key_value_heads\": 4", "num_key_value_heads"},
      {kLite, "\"moe_layer_freq\": 1", "\"moe_layer_freq\": 2", "moe_layer_freq"},
      {kLite, "\"norm_topk_prob\": false", "\"norm_topk_prob\": true", "norm_topk_prob"},
      {kLite, "\"greedy\"", "\"random\"", "topk_method"},
      {kLite, "\"softmax\"", "\"sigmoid\"", "scoring_func"},
      {kLite, "\"mscale\": 0.707", "\"mscale\": 1.0", "rope_scaling.mscale"},
      {kLite, "\"type\": \"yarn\"", "\"type\": \"linear\"", "rope_scaling.rope_type"},
      {kLite, "\"beta_slow\": 1", "\"beta_slow\": 1, \"spread\": 3", "rope_scaling.spread"},
      {kLite, "\"rope_theta\": 10000", "\"rope_theta\": 0.5", "rope_theta"},
      {kLite, "\"qk_rope_head_dim\": 64", "\"qk_rope_head_dim\": 63", "qk_rope_head_dim"},
      {kLite, "\"eos_token_id\": 100001", "\"eos_token_id\": 200000", "eos_token_id"},
      {kLite, "\"num_experts_per_tok\": 6", "\"num_experts_per_tok\": 65", "top_k"},
      {kThird, "\"quant_method\": \"fp8\"", "\"quant_method\": \"gptq\"",
       "quantization_config.quant_method"},
      {kThird, "128\n  ]", "64\n  ]", "quantization_config.weight_block_size"},
      {kThird, "\"deepseek_v3\"", "\"qwen3\"", "model_type"},
      {kThird, "\"n_group\": 8", "\"n_group\": 7", "groups"},
  };
  for (const auto& c : cases) {
    const auto foreign = Read(Replaced(c.text, c.from, c.to));
    ASSERT_FALSE(foreign.ok()) << c.to;
    EXPECT_EQ(foreign.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(foreign.status().message()), HasSubstr(c.key));
    EXPECT_THAT(std::string(foreign.status().message()), HasSubstr("config.json"));
  }
  const auto several = Read(
      Replaced(Replaced(kLite, "\"silu\"", "\"gelu\""), "\"use_cache\": true", "\"new_key\": 1"));
  EXPECT_THAT(std::string(several.status().message()), HasSubstr("hidden_act"));
  EXPECT_THAT(std::string(several.status().message()), HasSubstr("new_key"));
}

}  // namespace
}  // namespace mneme
