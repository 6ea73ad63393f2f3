// Engram's own two ops: addresses of suffix n-grams, and the gate (docs/mathematics.md).
#pragma once

#include <vector>

#include "kernels/core/tensor.h"

namespace mneme {

// One layer's hash. Orders n_1 < n_2 < …; sub-table index = order · heads + head.
struct NgramHash {
  std::vector<int64_t> orders;       // e.g. {2, 3}
  int64_t heads = 0;                 // K, per order
  int64_t pad = 0;                   // canonical id that stands before a document's first token
  std::vector<int64_t> multipliers;  // odd, one a look-back distance: 0 .. max(orders) − 1
  std::vector<int64_t> primes;       // rows of each sub-table
  std::vector<int64_t> offsets;      // first fused row of each sub-table
};

// mix_n = XOR over i < n of x'_{t−i} · multiplier_i (look-back that leaves the document reads
// `pad`); rows[t, order · K + k] = mix mod prime + offset. tokens i32 [T] in rows of `length`;
// canonical i32 [V]; doc_start i32 [T]; rows i64 [T, orders · K].
using NgramRowsFn = void(Stream&, const NgramHash&, const Tensor& tokens, const Tensor& canonical,
                         int64_t length, const Tensor& doc_start, Tensor& rows);

struct GateOptions {
  bool signed_sqrt = true;  // g = sign(s) · sqrt(max(|s|, clamp)); else g = s
  double clamp = 1e-6;
  double eps = 1e-20;  // of the two norms
  bool gated = true;   // false: α = 1, no keys (ablation "no gate")
};

// kv [T, (M + 1) · D]: keys of the M branches, then the value (M = 0 keys where !gated: kv [T, D]).
// s = ⟨norm(h)·w_h, norm(k)·w_k⟩ / √D, α = σ(g(s)), u = α · v. h, u [T, M, D]; w_h, w_k [M, D];
// rh, rk (reciprocal RMS), s, alpha [T, M] are kept.
using EngramGateFn = void(Stream&, const GateOptions&, const Tensor& h, const Tensor& kv,
                          const Tensor& w_h, const Tensor& w_k, Tensor& rh, Tensor& rk, Tensor& s,
                          Tensor& alpha, Tensor& u);
// dh = addend + the gradient: what reaches h by another way is added here, nothing where it is
// undefined. dkv assigned; dw_h, dw_k += (docs/mathematics.md).
using EngramGateGradFn = void(Stream&, const GateOptions&, const Tensor& du, const Tensor& addend,
                              const Tensor& h, const Tensor& kv, const Tensor& w_h,
                              const Tensor& w_k, const Tensor& rh, const Tensor& rk,
                              const Tensor& s, const Tensor& alpha, Tensor& dh, Tensor& dkv,
                              Tensor& dw_h, Tensor& dw_k);

namespace cpu {
NgramRowsFn NgramRows;
EngramGateFn EngramGate;
EngramGateGradFn EngramGateGrad;
}  // namespace cpu
namespace gpu {
NgramRowsFn NgramRows;
EngramGateFn EngramGate;
EngramGateGradFn EngramGateGrad;
}  // namespace gpu

}  // namespace mneme
