// A short deterministic run of the fuzzer's target: seeds, and random damage to them.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/core/random.h"
#include "tests/engine/convert/weights_fuzz.h"

namespace mneme {
namespace {

const std::vector<std::string> kSeeds = {
    R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[4],)"
    R"("data_offsets":[16,24]}})",
    R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F8_E4M3","shape":[24],)"
    R"("data_offsets":[0,24]}})",
    R"({"hidden_size": 64, "rope_scaling": {"type": "yarn", "factor": 40.0}, "q_lora_rank": null,)"
    R"( "architectures": ["DeepseekV3ForCausalLM"], "tie_word_embeddings": false})",
    R"({"model_type":"deepseek_v3","vocab_size":40,"hidden_size":16,"intermediate_size":144,)"
    R"("num_hidden_layers":2,"num_attention_heads":2,"q_lora_rank":10,"kv_lora_rank":12,)"
    R"("qk_nope_head_dim":8,"qk_rope_head_dim":4,"v_head_dim":6,"n_routed_experts":8,"n_group":4,)"
    R"("topk_group":2,"moe_intermediate_size":12,"rope_scaling":{"type":"yarn","factor":4,)"
    R"("mscale":1,"mscale_all_dim":1},"quantization_config":{"quant_method":"fp8",)"
    R"("weight_block_size":[128,128]}})",
    "{}"};

// Bytes that matter to JSON come more often than others.
constexpr std::string_view kLikely = "{}[]\":,0123456789-.eE\\u nulltruefalse";

std::string Damage(RandomKey key, uint64_t& draw, std::string text) {
  const auto pick = [&](size_t n) {
    return static_cast<size_t>(RandomInt(key, draw++, static_cast<int64_t>(n)));
  };
  const size_t edits = 1 + pick(6);
  for (size_t i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = pick(text.size());
    const char c = pick(4) == 0 ? static_cast<char>(pick(256)) : kLikely[pick(kLikely.size())];
    switch (pick(5)) {
      case 0:
        text[at] = c;
        break;
      case 1:
        text.insert(at, 1 + pick(3), c);
        break;
      case 2:
        text.erase(at, 1 + pick(8));
        break;
      case 3:
        text.insert(at, text.substr(pick(text.size()), pick(30)));
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

TEST(Fuzz, ReadersBearDamage) {
  const RandomKey key = MakeKey(1, "fuzz");
  uint64_t draw = 0;
  for (int round = 0; round < 40000; ++round) {
    std::string text = kSeeds[static_cast<size_t>(round) % kSeeds.size()];
    if (round >= static_cast<int>(kSeeds.size())) text = Damage(key, draw, std::move(text));
    text.insert(0, std::string("\x18\x00", 2));  // 24 bytes of data
    FuzzWeights(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
  const std::string deep = "\x18" + std::string(1, '\0') + std::string(1 << 20, '[');
  FuzzWeights(reinterpret_cast<const uint8_t*>(deep.data()), deep.size());
}

}  // namespace
}  // namespace mneme
