#include "engine/convert/foreign_sides.h"

#include <map>

#include "configs/json_text.h"
#include "data/tokenizer.h"
#include "engine/machine/machine.h"
#include "models/ngram.h"

namespace mneme {
namespace {

std::string Integers(const std::vector<int64_t>& values) {
  std::vector<std::string> texts;
  for (const int64_t value : values) texts.push_back(std::to_string(value));
  return JsonArray(texts);
}

// A float that reads as one: transformers does not take 1 for 1.0.
std::string Real(double value) {
  const std::string text = JsonNumber(value);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

const char* ClassOf(const std::string& architecture) {
  if (architecture == "deepseek_v3") return "[\"DeepseekV3ForCausalLM\"]";
  return architecture == "deepseek_v2" ? "[\"DeepseekV2ForCausalLM\"]" : "[\"MnemeForCausalLM\"]";
}

void AddExperts(const ModelConfig& m, const std::string& architecture, JsonObject& json) {
  const MoeConfig& moe = m.moe;
  const bool dense = moe.experts == 0;
  // A dense model is one whose experts begin behind its last layer.
  json.Add("n_routed_experts", dense ? 2 : moe.experts)
      .Add("n_shared_experts", dense ? 1 : moe.shared_hidden() / moe.expert_width)
      .Add("num_experts_per_tok", dense ? 1 : moe.top_k)
      .Add("moe_intermediate_size", moe.expert_width)
      .Add("first_k_dense_replace", dense ? m.layers : m.leading_dense)
      .Add("moe_layer_freq", 1)
      .Add("norm_topk_prob", moe.normalize)
      .AddRaw("routed_scaling_factor", Real(moe.route_scale))
      .Add("n_group", dense ? 1 : moe.groups)
      .Add("topk_group", dense ? 1 : moe.groups_kept)
      .Add("scoring_func", moe.score)
      .AddRaw("aux_loss_alpha", Real(moe.sequence_balance))
      .Add("seq_aux", true);
  const bool greedy = moe.groups == 1;
  json.Add("topk_method", architecture == "deepseek_v2"
                              ? (greedy ? "greedy" : "group_limited_greedy")
                              : "noaux_tc");
}

void AddPositions(const ModelConfig& m, const StageConfig& stage, JsonObject& json) {
  const YarnConfig& y = stage.yarn;
  json.AddRaw("rope_theta", Real(m.mla.rope_theta)).Add("rope_interleave", true);
  if (y.scale == 1.0) {
    json.Add("max_position_embeddings", stage.sequence_length).AddRaw("rope_scaling", "null");
    return;
  }
  JsonObject rope;
  rope.Add("type", "yarn")
      .AddRaw("factor", Real(y.scale))
      .AddRaw("beta_fast", Real(y.beta))
      .AddRaw("beta_slow", Real(y.alpha))
      .AddRaw("mscale", Real(y.mscale))
      .AddRaw("mscale_all_dim", Real(y.mscale))
      .Add("original_max_position_embeddings", y.original_length);
  const double reach = y.scale * static_cast<double>(y.original_length);
  json.Add("max_position_embeddings", static_cast<int64_t>(reach))
      .AddRaw("rope_scaling", rope.Text());
}

std::string HyperJson(const MhcConfig& mhc) {
  return JsonObject()
      .Add("streams", mhc.streams)
      .Add("sinkhorn_iterations", mhc.sinkhorn_iterations)
      .AddRaw("post_mult", Real(mhc.post_mult))
      .AddRaw("eps", Real(mhc.eps))
      .Add("readout", mhc.readout)
      .Text();
}

// Rows of the parts of every table, by its block.
std::map<std::string, std::vector<int64_t>> TableParts(const std::vector<PlannedFile>& files) {
  std::map<std::string, std::map<int64_t, int64_t>> rows;  // by first row: files keep no order
  for (const PlannedFile& file : files) {
    for (const PlannedPart& part : file.parts) {
      if (part.tensor->kind == "rows") rows[part.tensor->piece][part.begin] = part.end - part.begin;
    }
  }
  std::map<std::string, std::vector<int64_t>> parts;
  for (const auto& [name, counts] : rows) {
    for (const auto& [begin, count] : counts) parts[name].push_back(count);
  }
  return parts;
}

std::string EngramJson(const ModelConfig& m, const VocabularyInfo& info,
                       const std::vector<PlannedFile>& files) {
  const EngramConfig& e = m.engram;
  const Vocabulary vocabulary = MakeVocabulary(m, info);
  const std::vector<NgramHash> hashes =
      MakeNgramHashes(e, vocabulary.canonical_size, vocabulary.pad);
  const auto parts = TableParts(files);
  std::vector<std::string> layers;
  for (size_t i = 0; i < hashes.size(); ++i) {
    const std::string name = "blocks." + std::to_string(e.blocks[i]) + ".engram.table";
    JsonObject layer;
    layer.Add("layer", e.blocks[i])
        .AddRaw("multipliers", Integers(hashes[i].multipliers))
        .AddRaw("primes", Integers(hashes[i].primes))
        .AddRaw("table_rows", Integers(parts.at(name)));
    layers.push_back(layer.Text());
  }
  std::vector<int64_t> canonical(vocabulary.canonical.begin(), vocabulary.canonical.end());
  JsonObject json;
  json.AddRaw("orders", Integers(e.orders))
      .Add("heads", e.heads)
      .Add("width", e.d_mem)
      .Add("pad", vocabulary.pad)
      .Add("gate_branches", e.gate.branches)
      .Add("gate_transform", e.gate.transform)
      .AddRaw("gate_clamp", Real(e.gate.clamp))
      .AddRaw("gate_norm_eps", Real(e.gate.norm_eps))
      .Add("conv", e.conv.enabled)
      .Add("conv_kernel", e.conv.kernel)
      .Add("conv_dilation", e.conv.dilation > 0 ? e.conv.dilation : e.orders.back())
      .AddRaw("conv_norm_eps", Real(e.conv.norm_eps))
      .AddRaw("layers", JsonArray(layers))
      .AddRaw("canonical", Integers(canonical));
  return json.Text();
}

// The printable stand-in of a byte in byte-level tokenizers, as UTF-8: printable Latin-1 stands for
// itself, the others follow from U+0100 on.
std::string ByteCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

constexpr char kEosText[] = "<eos>";
constexpr char kPadText[] = "<pad>";

std::string SpecialToken(int64_t id, const char* text) {
  return JsonObject()
      .Add("id", id)
      .Add("content", text)
      .Add("single_word", false)
      .Add("lstrip", false)
      .Add("rstrip", false)
      .Add("normalized", false)
      .Add("special", true)
      .Text();
}

// Byte-level BPE without merges: the id of a byte is the byte.
std::string ByteTokenizerJson() {
  JsonObject ids;
  for (int b = 0; b < 256; ++b) ids.Add(ByteCharacter(b), b);
  JsonObject model;
  model.Add("type", "BPE")
      .AddRaw("dropout", "null")
      .AddRaw("unk_token", "null")
      .AddRaw("continuing_subword_prefix", "null")
      .AddRaw("end_of_word_suffix", "null")
      .Add("fuse_unk", false)
      .Add("byte_fallback", false)
      .AddRaw("vocab", ids.Text())
      .AddRaw("merges", "[]");
  const std::string split = R"({"type": "ByteLevel", "add_prefix_space": false, )"
                            R"("trim_offsets": false, "use_regex": false})";
  JsonObject json;
  json.Add("version", "1.0")
      .AddRaw("truncation", "null")
      .AddRaw("padding", "null")
      .AddRaw("added_tokens", JsonArray(std::vector<std::string>{SpecialToken(kByteEos, kEosText),
                                                                 SpecialToken(kBytePad, kPadText)}))
      .AddRaw("normalizer", "null")
      .AddRaw("pre_tokenizer", split)
      .AddRaw("post_processor", "null")
      .AddRaw("decoder", split)
      .AddRaw("model", model.Text());
  return json.Text() + "\n";
}

}  // namespace

std::string ForeignConfigJson(const RunConfig& config, const StageConfig& stage,
                              const VocabularyInfo& vocabulary, const std::string& architecture,
                              Element element, const std::vector<PlannedFile>& files) {
  const ModelConfig& m = config.model;
  JsonObject json;
  json.AddRaw("architectures", ClassOf(architecture));
  const bool own = architecture == "mneme";
  if (own) {
    json.AddRaw("auto_map", R"({"AutoConfig": "configuration_mneme.MnemeConfig", )"
                            R"("AutoModelForCausalLM": "modeling_mneme.MnemeForCausalLM"})");
  }
  json.Add("model_type", architecture)
      .Add("torch_dtype", element == Element::kF32 ? "float32" : "bfloat16")
      .Add("vocab_size", m.vocab_size)
      .Add("hidden_size", m.hidden)
      .Add("intermediate_size", m.dense_width)
      .Add("num_hidden_layers", m.layers)
      .Add("num_attention_heads", m.mla.heads)
      .Add("num_key_value_heads", m.mla.heads)
      .AddRaw("q_lora_rank", m.mla.q_lora_rank > 0 ? std::to_string(m.mla.q_lora_rank) : "null")
      .Add("kv_lora_rank", m.mla.kv_lora_rank)
      .Add("qk_nope_head_dim", m.mla.qk_nope)
      .Add("qk_rope_head_dim", m.mla.qk_rope)
      .Add("v_head_dim", m.mla.v_head);
  AddExperts(m, architecture, json);
  AddPositions(m, stage, json);
  json.Add("hidden_act", "silu")
      .Add("attention_bias", false)
      .AddRaw("attention_dropout", Real(0.0))
      .AddRaw("rms_norm_eps", Real(m.norm_eps))
      .AddRaw("initializer_range", Real(m.init_std))
      .Add("tie_word_embeddings", m.tie_embeddings)
      .Add("use_cache", !own)
      .Add("eos_token_id", vocabulary.eos)
      .AddRaw("bos_token_id", vocabulary.bos >= 0 ? std::to_string(vocabulary.bos) : "null")
      .AddRaw("pad_token_id", vocabulary.pad >= 0 ? std::to_string(vocabulary.pad) : "null");
  if (!own) return json.Add("num_nextn_predict_layers", 0).Text() + "\n";
  json.AddRaw("hyper_connections", HyperJson(m.mhc));
  if (!m.engram.blocks.empty()) json.AddRaw("engram", EngramJson(m, vocabulary, files));
  return json.Text() + "\n";
}

std::string WeightIndexJson(const std::vector<PlannedFile>& files) {
  int64_t bytes = 0;
  JsonObject map;
  JsonObject ranges;
  for (const PlannedFile& file : files) {
    bytes += file.bytes();
    for (const PlannedPart& part : file.parts) {
      map.Add(part.name, file.name);
      if (part.tensor->kind != "rows") continue;
      ranges.AddRaw(part.name, Integers({part.begin, part.end, part.tensor->rows}));
    }
  }
  JsonObject metadata;
  metadata.Add("total_size", bytes).AddRaw("row_ranges", ranges.Text());
  return JsonObject().AddRaw("metadata", metadata.Text()).AddRaw("weight_map", map.Text()).Text() +
         "\n";
}

std::vector<std::pair<std::string, std::string>> TokenizerFiles(const VocabularyInfo& vocabulary) {
  std::vector<std::pair<std::string, std::string>> files;
  JsonObject config;
  config.Add("tokenizer_class", "PreTrainedTokenizerFast")
      .Add("clean_up_tokenization_spaces", false);
  if (!vocabulary.tokenizer_json.empty()) {
    files.emplace_back("tokenizer.json", vocabulary.tokenizer_json);
  } else if (vocabulary.tokenizer == "bytes") {
    files.emplace_back("tokenizer.json", ByteTokenizerJson());
    config.Add("eos_token", kEosText).Add("pad_token", kPadText);
  } else {
    return files;
  }
  files.emplace_back("tokenizer_config.json", config.Text() + "\n");
  return files;
}

}  // namespace mneme
