#include "engine/convert/foreign_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "configs/load.h"
#include "configs/text.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;  // of any count here: products stay inside int64
constexpr int64_t kMostPositions = int64_t{1} << 24;
constexpr int64_t kSequence = 4096;  // where nothing says what it was trained at

// Keys that change nothing of what the model computes.
const std::set<std::string> kIdle = {"architectures",
                                     "auto_map",
                                     "transformers_version",
                                     "torch_dtype",
                                     "dtype",
                                     "use_cache",
                                     "pretraining_tp",
                                     "ep_size",
                                     "_name_or_path",
                                     "return_dict",
                                     "output_hidden_states",
                                     "output_attentions",
                                     "output_router_logits",
                                     "model_type",
                                     "initializer_range",
                                     "head_dim",
                                     "chunk_size_feed_forward",
                                     "is_encoder_decoder",
                                     "is_decoder",
                                     "id2label",
                                     "label2id",
                                     "problem_type",
                                     "_attn_implementation_autoset",
                                     "task_specific_params",
                                     "attention_dropout",
                                     "experts_implementation",
                                     "attn_implementation"};

// The keys of one object. What was not asked for is refused at last.
class KeyReader {
 public:
  KeyReader(const Json& json, const std::string& prefix, std::vector<std::string>& faults)
      : json_(json), fields_(json, prefix, faults) {}

  // Null where it is absent or null.
  const Json* Get(const std::string& key) { return At(key).Find(key); }
  void Fault(const std::string& key, const std::string& what) { fields_.Fault(key, what); }

  // Required where nothing stands for it.
  int64_t Count(const std::string& key, int64_t least, std::optional<int64_t> otherwise = {}) {
    const Json* value = Get(key);
    if (value == nullptr && otherwise.has_value()) return *otherwise;
    const int64_t* count = value == nullptr ? nullptr : value->integer();
    if (count != nullptr && *count >= least && *count <= kMost) return *count;
    Fault(key, value == nullptr
                   ? "is missing"
                   : "is " + ShowJson(*value) + "; must be a whole number of at least " +
                         std::to_string(least));
    return least;
  }
  double Number(const std::string& key, double otherwise) { return At(key).Number(key, otherwise); }
  bool Flag(const std::string& key, bool otherwise) { return At(key).Flag(key, otherwise); }
  std::string Text(const std::string& key, const std::string& otherwise) {
    return At(key).Text(key, otherwise);
  }
  // Must be this where it is stated.
  void Only(const std::string& key, const Json& only) {
    const Json* value = Get(key);
    if (value == nullptr || JsonText(*value) == JsonText(only)) return;
    Fault(key, "is " + ShowJson(*value) + "; models here have " + ShowJson(only) + " only");
  }
  void RefuseOthers(const std::set<std::string>& idle) {
    if (json_.object() == nullptr) return;
    for (const auto& [key, value] : *json_.object()) {
      if (seen_.contains(key) || idle.contains(key)) continue;
      Fault(key,
            "is a key that is not known here; what it means for the model is not "
            "known either");
    }
  }

 private:
  JsonFields& At(const std::string& key) {
    seen_.insert(key);
    return fields_;
  }

  const Json& json_;
  JsonFields fields_;
  std::set<std::string> seen_;
};

void ReadWidths(KeyReader& keys, ForeignConfig& out) {
  ModelConfig& m = out.model;
  MlaConfig& a = m.mla;
  m.vocab_size = keys.Count("vocab_size", 1);
  m.layers = keys.Count("num_hidden_layers", 1);
  m.hidden = keys.Count("hidden_size", 1);
  m.dense_width = keys.Count("intermediate_size", 1);
  m.norm_eps = keys.Number("rms_norm_eps", 1e-6);
  m.init_std = keys.Number("initializer_range", 0.02);
  m.tie_embeddings = keys.Flag("tie_word_embeddings", false);
  a.heads = keys.Count("num_attention_heads", 1);
  a.q_lora_rank = keys.Count("q_lora_rank", 1, 0);
  a.kv_lora_rank = keys.Count("kv_lora_rank", 1);
  a.qk_nope = keys.Count("qk_nope_head_dim", 1);
  a.qk_rope = keys.Count("qk_rope_head_dim", 2);
  a.v_head = keys.Count("v_head_dim", 1);
  const int64_t key_heads = keys.Count("num_key_value_heads", 1, a.heads);
  if (key_heads != a.heads) {
    keys.Fault("num_key_value_heads", "is " + std::to_string(key_heads) +
                                          " and num_attention_heads " + std::to_string(a.heads) +
                                          "; latent attention has a key for each head");
  }
  if (a.qk_rope % 2 != 0) keys.Fault("qk_rope_head_dim", "is odd; rotary parts are pairs");
  const int64_t sum = a.qk_nope + a.qk_rope;
  if (keys.Count("qk_head_dim", 1, sum) != sum) {
    keys.Fault("qk_head_dim", "is not qk_nope_head_dim + qk_rope_head_dim");
  }
  keys.Only("hidden_act", "silu");
  keys.Only("attention_bias", false);
  keys.Only("mlp_bias", false);
  const double eps = m.norm_eps;
  if (eps != 1e-6) {
    out.notes.push_back(
        "rms_norm_eps is not 1e-6: the norms of the latents, which have 1e-6 in "
        "transformers whatever it says, get it too");
  }
}

void ReadExperts(KeyReader& keys, ForeignConfig& out) {
  const bool third = out.model_type == "deepseek_v3";
  ModelConfig& m = out.model;
  MoeConfig& moe = m.moe;
  moe.experts = keys.Count("n_routed_experts", 1, 0);
  moe.shared = keys.Count("n_shared_experts", 0, 0);
  moe.top_k = keys.Count("num_experts_per_tok", 1, 1);
  moe.expert_width = keys.Count("moe_intermediate_size", 1, 1);
  m.leading_dense = keys.Count("first_k_dense_replace", 0, third ? 3 : 0);
  moe.score = keys.Text("scoring_func", third ? "sigmoid" : "softmax");
  moe.normalize = keys.Flag("norm_topk_prob", third);
  moe.route_scale = keys.Number("routed_scaling_factor", third ? 2.5 : 1.0);
  moe.groups = keys.Count("n_group", 1, 1);
  moe.groups_kept = keys.Count("topk_group", 1, 1);
  const std::string method = keys.Text("topk_method", third ? "noaux_tc" : "greedy");
  keys.Only("moe_layer_freq", 1);
  const double balance = keys.Number("aux_loss_alpha", 0.0);
  moe.sequence_balance = keys.Flag("seq_aux", true) ? balance : 0.0;
  moe.bias_update = third ? MoeConfig().bias_update : 0.0;
  if (moe.experts == 0) m.leading_dense = 0;
  const std::string score = third ? "sigmoid" : "softmax";
  if (moe.score != score) {
    keys.Fault("scoring_func",
               "is " + ShowJson(moe.score) + "; a " + out.model_type + " has " + score);
  }
  if (third ? method != "noaux_tc" : method != "greedy" && method != "group_limited_greedy") {
    keys.Fault("topk_method",
               "is " + ShowJson(method) + ", which a " + out.model_type + " does not have");
  }
  if (method == "greedy") moe.groups = moe.groups_kept = 1;
  if (!third && moe.normalize) {
    keys.Fault("norm_topk_prob",
               "is true: DeepSeek-V2 then leaves routed_scaling_factor out, and "
               "transformers does not normalise; neither is what is meant here");
  }
}

void ReadRotary(KeyReader keys, ForeignConfig& out) {
  const std::string old_type = keys.Text("type", "");
  const std::string type = keys.Text("rope_type", old_type.empty() ? "default" : old_type);
  out.model.mla.rope_theta = keys.Number("rope_theta", out.model.mla.rope_theta);
  if (type == "yarn") {
    YarnConfig& y = out.yarn;
    y.scale = keys.Number("factor", 1.0);
    y.beta = keys.Number("beta_fast", 32.0);
    y.alpha = keys.Number("beta_slow", 1.0);
    y.original_length = keys.Count("original_max_position_embeddings", 1, kSequence);
    y.mscale = keys.Number("mscale_all_dim", 0.0);
    if (keys.Number("mscale", 0.0) != y.mscale || y.mscale == 0.0) {
      keys.Fault("mscale",
                 "is not mscale_all_dim: then the rotary part of a score is scaled by "
                 "another factor than the rest, which models here do not do");
    }
    keys.Only("attention_factor", Json());
    keys.Only("truncate", true);
    if (y.scale < 1.0) keys.Fault("factor", "is below 1");
    out.sequence_length = y.original_length;
  } else if (type != "default") {
    keys.Fault("rope_type", "is " + ShowJson(type) + "; models here have default and yarn");
  }
  keys.RefuseOthers({});
}

void ReadPositions(KeyReader& keys, ForeignConfig& out, std::vector<std::string>& faults) {
  out.model.mla.rope_theta = keys.Number("rope_theta", 10000.0);
  const int64_t most =
      std::min(keys.Count("max_position_embeddings", 1, kSequence), kMostPositions);
  out.sequence_length = std::min(most, kSequence);
  const Json *scaling = keys.Get("rope_scaling"), *parameters = keys.Get("rope_parameters");
  for (const auto& [name, value] :
       {std::pair("rope_scaling", scaling), {"rope_parameters", parameters}}) {
    if (value == nullptr) continue;
    if (value->object() == nullptr) {
      keys.Fault(name, "is no object");
      continue;
    }
    ReadRotary(KeyReader(*value, std::string(name) + ".", faults), out);
  }
  if (out.model.mla.rope_theta <= 1.0) keys.Fault("rope_theta", "must be above 1");
  if (!keys.Flag("rope_interleave", true)) out.half_split_rotary = true;
  if (scaling != nullptr && parameters != nullptr && JsonText(*scaling) != JsonText(*parameters)) {
    keys.Fault("rope_scaling", "and rope_parameters are both stated, and differ");
  }
}

void ReadQuantization(KeyReader keys, ForeignConfig& out) {
  keys.Only("quant_method", "fp8");
  keys.Only("fmt", "e4m3");
  for (const char* idle : {"activation_scheme", "modules_to_not_convert", "scale_fmt"})
    keys.Get(idle);
  const Json* block = keys.Get("weight_block_size");
  out.scale_block = 128;
  if (block != nullptr) {
    const Json::List* sizes = block->list();
    const bool two = sizes != nullptr && sizes->size() == 2;
    const int64_t *rows = two ? (*sizes)[0].integer() : nullptr,
                  *cols = two ? (*sizes)[1].integer() : nullptr;
    if (rows != nullptr && cols != nullptr && *rows == *cols && *rows >= 1 && *rows <= 65536) {
      out.scale_block = *rows;
    } else {
      keys.Fault("weight_block_size",
                 "is " + ShowJson(*block) + "; blocks here are square, [128, 128]");
    }
  }
  if (keys.Get("quant_method") == nullptr) keys.Fault("quant_method", "is missing");
  keys.RefuseOthers({"dequantize"});
}

void ReadIds(KeyReader& keys, ForeignConfig& out) {
  out.bos = keys.Count("bos_token_id", 0, -1);
  out.pad = keys.Count("pad_token_id", -1, -1);
  const Json* eos = keys.Get("eos_token_id");
  const Json::List* several = eos == nullptr ? nullptr : eos->list();
  if (several != nullptr && !several->empty() && several->front().integer() != nullptr) {
    out.eos = *several->front().integer();
    out.notes.push_back("of several eos_token_id the first is taken");
  } else {
    out.eos = keys.Count("eos_token_id", 0, -1);
  }
  for (const auto& [key, id] : {std::pair("bos_token_id", &out.bos),
                                {"eos_token_id", &out.eos},
                                {"pad_token_id", &out.pad}}) {
    if (*id >= out.model.vocab_size) keys.Fault(key, "is beyond the vocabulary");
  }
}

}  // namespace

absl::StatusOr<ForeignConfig> ReadForeignConfig(const Json& json, const std::string& path) {
  if (json.object() == nullptr) {
    return absl::InvalidArgumentError(path + ": is no JSON object");
  }
  std::vector<std::string> faults;
  KeyReader keys(json, "", faults);
  ForeignConfig out;
  out.model_type = keys.Text("model_type", "");
  if (out.model_type != "deepseek_v2" && out.model_type != "deepseek_v3") {
    return absl::InvalidArgumentError(path + ": model_type: is " + ShowJson(out.model_type) +
                                      "; deepseek_v2 and deepseek_v3 are read here");
  }
  ReadWidths(keys, out);
  ReadExperts(keys, out);
  ReadPositions(keys, out, faults);
  ReadIds(keys, out);
  for (const char* name : {"num_nextn_predict_layers", "num_mtp_layers"}) {
    out.prediction_layers = std::max(out.prediction_layers, keys.Count(name, 0, 0));
  }
  if (const Json* quantization = keys.Get("quantization_config"); quantization != nullptr) {
    ReadQuantization(KeyReader(*quantization, "quantization_config.", faults), out);
  }
  keys.RefuseOthers(kIdle);
  if (faults.empty()) {
    // What is left are rules between keys, which ours are.
    const auto checked =
        ParseConfig(DumpConfig(RunConfigOf(out)), path + " (as a configuration here)");
    if (checked.ok()) return out;
    return checked.status();
  }
  std::string all;
  for (const std::string& fault : faults) {
    all += (all.empty() ? "" : "\n") + path + ": " + fault;
  }
  return absl::InvalidArgumentError(all);
}

RunConfig RunConfigOf(const ForeignConfig& foreign) {
  RunConfig config;
  config.model = foreign.model;
  config.train.sequence_length = foreign.sequence_length;
  config.run.dir = "runs/imported";
  StageConfig stage;
  stage.data = config.data;
  stage.schedule = config.optim.schedule;
  stage.yarn = foreign.yarn;
  stage.sequence_length = foreign.sequence_length;
  stage.batch_sequences = config.train.batch_sequences;
  stage.lr = config.optim.lr;
  config.stages = {stage};
  return config;
}

std::string ForeignConfigYaml(const ForeignConfig& foreign) {
  const std::string all = DumpConfig(RunConfigOf(foreign));
  std::string out;
  bool wanted = false;
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size() - 1);
    const std::string line = all.substr(at, end + 1 - at);
    if (line[0] != ' ' && line[0] != '#') wanted = line.starts_with("model:");
    if (wanted) out += line;
    at = end + 1;
  }
  const YarnConfig& y = foreign.yarn;
  if (y.scale == 1.0) return out;
  return out + "stages:\n  - yarn: {scale: " + NumberText(y.scale) +
         ", alpha: " + NumberText(y.alpha) + ", beta: " + NumberText(y.beta) +
         ", mscale: " + NumberText(y.mscale) +
         ", original_length: " + std::to_string(y.original_length) + "}\n";
}

}  // namespace mneme
