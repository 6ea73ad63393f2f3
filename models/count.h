// Parameters and FLOPs from ModelConfig alone (arXiv 2601.07372).
#pragma once

#include <cstdint>

#include "configs/model.h"

namespace mneme {

struct Counts {
  int64_t embedding = 0;  // one vocabulary matrix
  int64_t head = 0;       // the other; 0 if tied
  int64_t attention = 0;  // with norms
  int64_t dense_ffn = 0;
  int64_t shared_experts = 0;
  int64_t routed_experts = 0;
  int64_t routers = 0;
  int64_t hyper = 0;    // mHC of all sub-layers
  int64_t readout = 0;  // mHC read-out (not in the paper's totals)
  int64_t engram = 0;   // projections, norms, convolution
  int64_t tables = 0;   // rows · width
  int64_t norms = 0;
  int64_t routed_active = 0;  // of routed_experts, those that one token uses

  int64_t total_without_vocab() const;  // all but embedding, head and read-out
  int64_t total_paper() const;          // with one vocabulary matrix
  int64_t total() const;                // every trained value
  int64_t active() const;  // of total_without_vocab: without tables and unchosen experts
  int64_t sparse() const;  // unchosen experts + tables
  double flops_per_token(int64_t sequence_length)
      const;  // training: 6 x active with the head, and the attention scores

  // Kept for flops_per_token.
  int64_t layers = 0, heads = 0, qk = 0, v = 0;
};

Counts Count(const ModelConfig& config);

}  // namespace mneme
