// The architecture: every width, count and switch of the model (docs/mathematics.md). Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

// Ids of a vocabulary, also of a corpus's: 32-bit ids, and room for a hash's multipliers.
inline constexpr int64_t kMostVocabulary = 1'000'000'000;

// YaRN scaling of MLA's rotary part (docs/mathematics.md). scale 1 is off.
struct YarnConfig {
  double scale = 1.0;
  double alpha = 1.0;
  double beta = 32.0;
  double mscale = 0.707;
  int64_t original_length = 4096;

  template <class V>
  void Visit(V& v) {
    v("scale", scale, "context is stretched by this factor; 1 is off");
    v("alpha", alpha,
      "rotations within original_length below which a frequency is wholly interpolated");
    v("beta", beta, "rotations above which a frequency is left alone");
    v("mscale", mscale,
      "coefficient f of the score scale: (0.1 f ln(scale) + 1)^2 multiplies every score");
    v("original_length", original_length, "sequence length before the extension");
  }
};

// Multi-head latent attention (arXiv 2405.04434, section 2.1): q of a head is qk_nope + qk_rope
// wide, and so is a key, whose rotary part is one for all heads.
struct MlaConfig {
  int64_t heads = 4;
  int64_t q_lora_rank = 0;
  int64_t kv_lora_rank = 64;
  int64_t qk_nope = 32;
  int64_t qk_rope = 16;
  int64_t v_head = 32;
  double rope_theta = 10000.0;

  template <class V>
  void Visit(V& v) {
    v("heads", heads, "attention heads");
    v("q_lora_rank", q_lora_rank, "rank of the query compression; 0 projects queries at full rank");
    v("kv_lora_rank", kv_lora_rank, "width of the compressed key-value latent");
    v("qk_nope", qk_nope, "width per head of the query-key part without positions");
    v("qk_rope", qk_rope, "width of the rotary part, shared by all heads on the key side; even");
    v("v_head", v_head, "width of a value per head");
    v("rope_theta", rope_theta, "base of the rotary frequencies");
  }
};

// Manifold-constrained hyper-connections (docs/mathematics.md, Hyper-connections). With one stream
// there are no mixes, and nothing else here counts.
struct MhcConfig {
  int64_t streams = 1;
  int64_t sinkhorn_iterations = 20;
  double alpha_init = 0.01;
  double post_mult = 2.0;
  double eps = 1e-6;
  std::string init = "identity";
  std::string readout = "learned";

  template <class V>
  void Visit(V& v) {
    v("streams", streams, "residual streams n; 1 is the plain residual x + F(x)");
    v("sinkhorn_iterations", sinkhorn_iterations, "Sinkhorn iterations of the residual mix");
    v("alpha_init", alpha_init, "initial value of the three dynamic gains");
    v("post_mult", post_mult, "multiplier of the output weights");
    v("eps", eps, "added to pre, the first softmax, Sinkhorn sums and the read-out");
    v("init", init, "start of the static mixes: identity (streams kept apart) or uniform (all 0)",
      {"identity", "uniform"});
    v("readout", readout, "how the streams become one before the head", {"learned", "mean", "sum"});
  }
};

// DeepSeekMoE. experts = 0 makes every block dense. `score`, `normalize` and `route_scale` make the
// weights of the chosen; the bias that `bias_update` moves chooses only (docs/mathematics.md,
// Experts).
struct MoeConfig {
  int64_t experts = 0;
  int64_t shared = 2;
  int64_t shared_width = 0;
  int64_t top_k = 6;
  int64_t expert_width = 128;
  std::string score = "sigmoid";
  bool normalize = true;
  double route_scale = 1.0;
  int64_t groups = 1;
  int64_t groups_kept = 1;
  double bias_update = 0.001;
  double sequence_balance = 0.0;

  template <class V>
  void Visit(V& v) {
    v("experts", experts, "routed experts in each MoE block; 0 makes every block dense");
    v("shared", shared,
      "shared experts: one SwiGLU of shared x expert_width beside the routed ones");
    v("shared_width", shared_width,
      "hidden width of that SwiGLU; 0 takes shared x expert_width, another one makes budgets "
      "equal");
    v("top_k", top_k, "experts chosen for each token");
    v("expert_width", expert_width, "hidden width of one expert");
    v("score", score, "router scores", {"sigmoid", "softmax"});
    v("normalize", normalize, "divide the chosen weights by their sum");
    v("route_scale", route_scale, "multiplies the weights after that");
    v("groups", groups, "equal groups of experts for group-limited choice");
    v("groups_kept", groups_kept, "groups in which a token may choose");
    v("bias_update", bias_update, "speed of the auxiliary-loss-free bias, per step; 0 is off");
    v("sequence_balance", sequence_balance, "weight of the sequence balance loss; 0 is off");
  }

  // Hidden width of the one SwiGLU of all shared experts; 0: none.
  int64_t shared_hidden() const { return shared_width > 0 ? shared_width : shared * expert_width; }
};

// α = σ(g(s)), s the product of the normed query and key: how far a memory opens
// (docs/mathematics.md, Engram).
struct GateConfig {
  std::string branches = "per_branch";
  std::string transform = "signed_sqrt";
  double clamp = 1e-6;
  double norm_eps = 1e-20;

  template <class V>
  void Visit(V& v) {
    v("branches", branches,
      "per_branch: a key a stream; single: one gate on the mean of the streams, its output added "
      "to all; none: no gate",
      {"per_branch", "single", "none"});
    v("transform", transform, "between score and sigmoid", {"signed_sqrt", "none"});
    v("clamp", clamp, "least |score| under the signed square root");
    v("norm_eps", norm_eps, "eps of the norms of query and key");
  }
};

// Y = u + SiLU(conv(norm(u))) behind the gate; off: Y = u.
struct ConvConfig {
  bool enabled = true;
  int64_t kernel = 4;
  int64_t dilation = 0;
  bool zero_init = true;
  double norm_eps = 1e-5;

  template <class V>
  void Visit(V& v) {
    v("enabled", enabled, "short depthwise causal convolution after the gate");
    v("kernel", kernel, "taps");
    v("dilation", dilation, "distance of two taps; 0 means the largest order");
    v("zero_init", zero_init, "weights start at 0, else like a matrix");
    v("norm_eps", norm_eps, "eps of the norm before it");
  }
};

// Rows of the hashed tables: first values N(0, init_std), Adam of their own.
struct TableConfig {
  double init_std = 0.02;
  double lr_mult = 5.0;
  double weight_decay = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-20;
  std::string adam = "dense";
  std::string store = "auto";
  bool in_clip_norm = true;

  template <class V>
  void Visit(V& v) {
    v("init_std", init_std, "standard deviation of a row's first value");
    v("lr_mult", lr_mult, "learning rate of the tables as a multiple of optim.lr");
    v("weight_decay", weight_decay,
      "decay of the tables (decoupled); must be 0 with store: lazy or adam: touched");
    v("beta1", beta1, "Adam's first decay rate for the tables");
    v("beta2", beta2, "Adam's second decay rate for the tables");
    v("eps", eps, "Adam's eps for the tables");
    v("adam", adam,
      "dense: every row that has ever had a gradient moves at each step; touched: rows of this "
      "step only",
      {"dense", "touched"});
    v("store", store,
      "resident: all rows in memory from the start; lazy: a row appears at its first update, on "
      "CPUs; auto: resident on GPUs and for decay, else lazy",
      {"auto", "resident", "lazy"});
    v("in_clip_norm", in_clip_norm, "table gradients count in the global norm");
  }

  // Whether all rows are in memory from the start: what `store` comes to.
  bool resident(bool on_cpu) const {
    return store == "resident" || (store == "auto" && (!on_cpu || weight_decay > 0.0));
  }
};

// Conditional memory. No blocks: no Engram.
struct EngramConfig {
  std::vector<int64_t> blocks;
  std::vector<int64_t> orders = {2, 3};
  int64_t heads = 8;
  int64_t d_mem = 0;
  std::vector<int64_t> vocab_size = {0};
  int64_t hash_seed = 0;
  std::vector<int64_t> hash_layer_ids;
  bool compression = true;
  GateConfig gate;
  ConvConfig conv;
  TableConfig table;

  template <class V>
  void Visit(V& v) {
    v("blocks", blocks, "blocks (from 0) that begin with an Engram layer; [] is off");
    v("orders", orders, "n-gram orders, rising");
    v("heads", heads, "hash heads of each order");
    v("d_mem", d_mem, "width of the whole retrieved vector: orders x heads x row width");
    v("vocab_size", vocab_size,
      "least rows of each sub-table (raised to distinct primes): one number, or one an order");
    v("hash_seed", hash_seed, "seed of the hash multipliers");
    v("hash_layer_ids", hash_layer_ids,
      "index of each Engram layer in its seed; [] takes the block numbers");
    v("compression", compression,
      "hash over canonical ids (tokenizer compression) instead of raw ids");
    v("gate", gate, "context-aware gate");
    v("conv", conv, "short convolution");
    v("table", table, "the tables' values and their optimizer");
  }
};

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t layers = 4;
  int64_t hidden = 128;
  int64_t dense_width = 512;
  int64_t leading_dense = 1;
  double norm_eps = 1e-20;
  double init_std = 0.006;
  bool tie_embeddings = false;
  MlaConfig mla;
  MhcConfig mhc;
  MoeConfig moe;
  EngramConfig engram;

  template <class V>
  void Visit(V& v) {
    v("vocab_size", vocab_size, "token ids; 0 takes the vocabulary of the data");
    v("layers", layers, "blocks");
    v("hidden", hidden, "width of the residual stream");
    v("dense_width", dense_width, "hidden width of a dense block's feed-forward");
    v("leading_dense", leading_dense, "first blocks that are dense although moe.experts is not 0");
    v("norm_eps", norm_eps, "eps inside the root of every RMSNorm but Engram's own");
    v("init_std", init_std, "standard deviation of initial matrices");
    v("tie_embeddings", tie_embeddings, "the head uses the embedding matrix");
    v("mla", mla, "attention");
    v("mhc", mhc, "hyper-connections");
    v("moe", moe, "mixture of experts");
    v("engram", engram, "conditional memory");
  }

  // block: from 0.
  bool is_moe_block(int64_t block) const { return moe.experts > 0 && block >= leading_dense; }
};

}  // namespace mneme
