#include "engine/convert/model_tensors.h"

#include <numeric>

#include "models/ngram.h"

namespace mneme {
namespace {

class Lister {
 public:
  explicit Lister(const ModelConfig& model) : model_(model) {}

  std::vector<ModelTensor> List() {
    Matrix("embedding", "model.embed_tokens.weight", model_.vocab_size, model_.hidden);
    for (int64_t b = 0; b < model_.layers; ++b) Block(b);
    const int64_t n = model_.mhc.streams;
    if (n > 1 && model_.mhc.readout == "learned") {
      Accurate("readout.fn", "model.readout.fn", n, n * model_.hidden);
      AccurateVector("readout.scale", "model.readout.scale", 1);
      AccurateVector("readout.base", "model.readout.base", n);
    }
    Vector("norm", "model.norm.weight", model_.hidden);
    if (!model_.tie_embeddings) {
      Matrix("head", "lm_head.weight", model_.vocab_size, model_.hidden);
    }
    return std::move(tensors_);
  }

 private:
  ModelTensor& Add(const std::string& piece, const std::string& foreign, int64_t rows,
                   int64_t cols) {
    ModelTensor& t = tensors_.emplace_back();
    t.piece = piece;
    t.kind = "value";
    t.foreign = foreign;
    t.rows = rows;
    t.cols = cols;
    t.init = model_.init_std;
    return t;
  }
  void Matrix(const std::string& piece, const std::string& foreign, int64_t rows, int64_t cols) {
    Add(piece, foreign, rows, cols);
  }
  ModelTensor& Vector(const std::string& piece, const std::string& foreign, int64_t n) {
    ModelTensor& t = Add(piece, foreign, 1, n);
    t.vector = true;
    t.init = -1.0;
    return t;
  }
  ModelTensor& Accurate(const std::string& piece, const std::string& foreign, int64_t rows,
                        int64_t cols) {
    ModelTensor& t = Add(piece, foreign, rows, cols);
    t.accurate = true;
    return t;
  }
  void AccurateVector(const std::string& piece, const std::string& foreign, int64_t n) {
    Vector(piece, foreign, n).accurate = true;
  }

  void Block(int64_t b) {
    const std::string ours = "blocks." + std::to_string(b);
    const std::string theirs = "model.layers." + std::to_string(b);
    for (size_t i = 0; i < model_.engram.blocks.size(); ++i) {
      if (model_.engram.blocks[i] == b) Engram(i, ours + ".engram", theirs + ".engram");
    }
    Hyper(ours + ".attention.hyper", theirs + ".attention_hyper");
    Vector(ours + ".attention.norm", theirs + ".input_layernorm.weight", model_.hidden);
    Attention(ours + ".attention.", theirs + ".self_attn.");
    Hyper(ours + ".ffn.hyper", theirs + ".mlp_hyper");
    Vector(ours + ".ffn.norm", theirs + ".post_attention_layernorm.weight", model_.hidden);
    if (!model_.is_moe_block(b)) {
      return Mlp(ours + ".mlp.", theirs + ".mlp.", model_.dense_width);
    }
    const MoeConfig& moe = model_.moe;
    Matrix(ours + ".moe.router", theirs + ".mlp.gate.weight", moe.experts, model_.hidden);
    ModelTensor& bias = Vector(ours + ".moe.router_bias",
                               theirs + ".mlp.gate.e_score_correction_bias", moe.experts);
    bias.kind = "router_bias";
    bias.accurate = true;
    for (int64_t e = 0; e < moe.experts; ++e) {
      const std::string expert = "experts." + std::to_string(e) + ".";
      Mlp(ours + ".moe." + expert, theirs + ".mlp." + expert, moe.expert_width);
    }
    if (moe.shared_hidden() > 0) {
      Mlp(ours + ".moe.shared.", theirs + ".mlp.shared_experts.", moe.shared_hidden());
    }
  }

  void Attention(const std::string& ours, const std::string& theirs) {
    const MlaConfig& a = model_.mla;
    const int64_t d = model_.hidden;
    const int64_t query = a.heads * (a.qk_nope + a.qk_rope);
    if (a.q_lora_rank > 0) {
      Matrix(ours + "q_a", theirs + "q_a_proj.weight", a.q_lora_rank, d);
      Vector(ours + "q_norm", theirs + "q_a_layernorm.weight", a.q_lora_rank);
      Matrix(ours + "q_b", theirs + "q_b_proj.weight", query, a.q_lora_rank);
    } else {
      Matrix(ours + "q", theirs + "q_proj.weight", query, d);
    }
    Matrix(ours + "kv_a", theirs + "kv_a_proj_with_mqa.weight", a.kv_lora_rank + a.qk_rope, d);
    Vector(ours + "kv_norm", theirs + "kv_a_layernorm.weight", a.kv_lora_rank);
    Matrix(ours + "kv_b", theirs + "kv_b_proj.weight", a.heads * (a.qk_nope + a.v_head),
           a.kv_lora_rank);
    Matrix(ours + "o", theirs + "o_proj.weight", d, a.heads * a.v_head);
  }

  void Mlp(const std::string& ours, const std::string& theirs, int64_t width) {
    Matrix(ours + "gate", theirs + "gate_proj.weight", width, model_.hidden);
    Matrix(ours + "up", theirs + "up_proj.weight", width, model_.hidden);
    Matrix(ours + "down", theirs + "down_proj.weight", model_.hidden, width);
  }

  void Hyper(const std::string& ours, const std::string& theirs) {
    const int64_t n = model_.mhc.streams;
    if (n == 1) return;
    Accurate(ours + ".phi", theirs + ".phi", n * model_.hidden, n * n + 2 * n);
    AccurateVector(ours + ".alpha", theirs + ".alpha", 3);
    AccurateVector(ours + ".bias", theirs + ".bias", n * n + 2 * n);
  }

  void Engram(size_t layer, const std::string& ours, const std::string& theirs) {
    const EngramConfig& e = model_.engram;
    const int64_t d = model_.hidden;
    const int64_t branches = e.gate.branches == "single" ? 1 : model_.mhc.streams;
    const std::vector<int64_t> primes = NgramPrimes(e)[layer];
    ModelTensor& table = Add(ours + ".table", theirs + ".table",
                             std::accumulate(primes.begin(), primes.end(), int64_t{0}),
                             e.d_mem / static_cast<int64_t>(primes.size()));
    table.kind = "rows";
    table.init = e.table.init_std;
    const bool gated = e.gate.branches != "none";
    for (int64_t m = 0; gated && m < branches; ++m) {
      const std::string key = ".key." + std::to_string(m);
      Matrix(ours + key, theirs + key + ".weight", d, e.d_mem);
    }
    Add(ours + ".value", theirs + ".value.weight", d, e.d_mem).neutral = true;
    if (gated) {
      Accurate(ours + ".norm_h", theirs + ".query_norm", branches, d).init = -1.0;
      Accurate(ours + ".norm_k", theirs + ".key_norm", branches, d).init = -1.0;
    }
    if (!e.conv.enabled) return;
    Accurate(ours + ".conv_norm", theirs + ".conv_norm", branches, d).init = -1.0;
    Accurate(ours + ".conv", theirs + ".conv", branches * d, e.conv.kernel).init =
        e.conv.zero_init ? 0.0 : model_.init_std;
  }

  const ModelConfig& model_;
  std::vector<ModelTensor> tensors_;
};

}  // namespace

std::vector<ModelTensor> ModelTensors(const ModelConfig& model) { return Lister(model).List(); }

std::string ArchitectureOf(const ModelConfig& model, bool router_bias) {
  const MoeConfig& moe = model.moe;
  if (!model.engram.blocks.empty() || model.mhc.streams > 1) return "mneme";
  if (moe.experts == 0 || model.leading_dense >= model.layers) return "deepseek_v3";
  if (moe.shared_hidden() == 0) return "mneme";
  if (moe.score == "sigmoid") {
    // A group is ranked by its two best experts.
    return moe.experts / moe.groups >= 2 ? "deepseek_v3" : "mneme";
  }
  return router_bias || moe.normalize ? "mneme" : "deepseek_v2";
}

}  // namespace mneme
