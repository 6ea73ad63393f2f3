// Causal attention in the shapes of MLA: each head's key is its own part beside one rotary part
// shared by all heads (docs/mathematics.md). Blocked with an online softmax; keeps the log-sum-exp
// for the gradient.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// T = rows · length tokens, row after row. A row is one sample; tokens attend inside their row
// only.
struct AttentionShape {
  int64_t rows = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t nope = 0;   // width of the part without positions
  int64_t rope = 0;   // width of the rotary part
  int64_t value = 0;  // width of a value
  // False promises that doc_start is 0 throughout, which only the device could see: an
  // implementation may then leave the mask out.
  bool documents = true;
};

// q [T, H, nope + rope], rotary part last, rotated; kv [T, H, nope + value]: key part, then value;
// k_pe [T, rope], rotated. Position t of a row sees positions doc_start[t] .. t of it (doc_start
// i32 [T], at most t and never falling inside a row; 0 where documents are ignored). score = scale
// · (q_nope · k_nope + q_pe · k_pe); out [T, H, value]; lse [T, H] = log Σ exp(score).
using AttentionFn = void(Stream&, const AttentionShape&, double scale, const Tensor& q,
                         const Tensor& kv, const Tensor& k_pe, const Tensor& doc_start, Tensor& out,
                         Tensor& lse);

// dq, dkv, dk_pe assigned, in the shapes of q, kv, k_pe.
using AttentionGradFn = void(Stream&, const AttentionShape&, double scale, const Tensor& dout,
                             const Tensor& q, const Tensor& kv, const Tensor& k_pe,
                             const Tensor& doc_start, const Tensor& out, const Tensor& lse,
                             Tensor& dq, Tensor& dkv, Tensor& dk_pe);

namespace cpu {
AttentionFn Attention;
AttentionGradFn AttentionGrad;
}  // namespace cpu
namespace gpu {
AttentionFn Attention;
AttentionGradFn AttentionGrad;
}  // namespace gpu

}  // namespace mneme
