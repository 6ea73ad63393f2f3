#include "models/count.h"

#include "models/ngram.h"

namespace mneme {
namespace {

int64_t AttentionCount(const MlaConfig& mla, int64_t hidden) {
  const int64_t queries = mla.heads * (mla.qk_nope + mla.qk_rope);
  const int64_t query = mla.q_lora_rank == 0
                            ? hidden * queries
                            : mla.q_lora_rank * (hidden + 1 + queries);  // 1: the latent's norm
  const int64_t latent = hidden * (mla.kv_lora_rank + mla.qk_rope) + mla.kv_lora_rank;
  const int64_t keys_values = mla.kv_lora_rank * mla.heads * (mla.qk_nope + mla.v_head);
  return query + latent + keys_values + mla.heads * mla.v_head * hidden;
}

int64_t SwiGluCount(int64_t hidden, int64_t width) { return 3 * hidden * width; }

// All layers: projections, gate norms, convolution with its norm (docs/mathematics.md).
int64_t EngramCount(const ModelConfig& config) {
  const EngramConfig& engram = config.engram;
  const int64_t branches = engram.gate.branches == "single" ? 1 : config.mhc.streams;
  const int64_t keys = engram.gate.branches == "none" ? 0 : branches;
  const int64_t projections = (keys + 1) * engram.d_mem * config.hidden;
  const int64_t gate_norms = 2 * keys * config.hidden;
  const int64_t convolution =
      engram.conv.enabled ? branches * config.hidden * (engram.conv.kernel + 1) : 0;
  return static_cast<int64_t>(engram.blocks.size()) * (projections + gate_norms + convolution);
}

int64_t TableCount(const EngramConfig& engram) {
  if (engram.blocks.empty()) return 0;
  const int64_t sub_tables = static_cast<int64_t>(engram.orders.size()) * engram.heads;
  const int64_t row_width = engram.d_mem / sub_tables;
  int64_t rows = 0;
  for (const auto& layer : NgramPrimes(engram))
    for (const int64_t prime : layer) rows += prime;
  return rows * row_width;
}

}  // namespace

int64_t Counts::total_without_vocab() const {
  return attention + dense_ffn + shared_experts + routed_experts + routers + hyper + engram +
         tables + norms;
}
int64_t Counts::total_paper() const { return total_without_vocab() + embedding; }
int64_t Counts::total() const { return total_paper() + head + readout; }
int64_t Counts::sparse() const { return routed_experts - routed_active + tables; }
int64_t Counts::active() const { return total_without_vocab() - sparse(); }

double Counts::flops_per_token(int64_t sequence_length) const {
  const int64_t projection = head > 0 ? head : embedding;
  const double matrices = 6.0 * static_cast<double>(active() + projection);
  // A position sees (length + 1) / 2 others on average; a multiply-add is 2, backward twice
  // forward.
  const double seen = 0.5 * static_cast<double>(sequence_length + 1);
  return matrices + 6.0 * seen * static_cast<double>(layers * heads * (qk + v));
}

Counts Count(const ModelConfig& config) {
  const int64_t hidden = config.hidden, streams = config.mhc.streams;
  const MoeConfig& moe = config.moe;
  Counts c;
  c.layers = config.layers;
  c.heads = config.mla.heads;
  c.qk = config.mla.qk_nope + config.mla.qk_rope;
  c.v = config.mla.v_head;
  c.embedding = config.vocab_size * hidden;
  c.head = config.tie_embeddings ? 0 : config.vocab_size * hidden;
  c.attention = config.layers * AttentionCount(config.mla, hidden);
  c.norms = (2 * config.layers + 1) * hidden;
  for (int64_t block = 0; block < config.layers; ++block) {
    if (!config.is_moe_block(block)) {
      c.dense_ffn += SwiGluCount(hidden, config.dense_width);
      continue;
    }
    c.shared_experts += SwiGluCount(hidden, moe.shared_hidden());
    c.routed_experts += moe.experts * SwiGluCount(hidden, moe.expert_width);
    c.routed_active += moe.top_k * SwiGluCount(hidden, moe.expert_width);
    c.routers += moe.experts * hidden;
  }
  if (streams > 1) {
    const int64_t mixes = streams * streams + 2 * streams;
    c.hyper = 2 * config.layers * (streams * hidden * mixes + mixes + 3);
    if (config.mhc.readout == "learned") c.readout = streams * streams * hidden + streams + 1;
  }
  c.engram = EngramCount(config);
  c.tables = TableCount(config.engram);
  return c;
}

}  // namespace mneme
