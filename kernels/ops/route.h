// The router of DeepSeekMoE: scores, top-k by biased score, weights, loads, sequence balance loss
// (docs/mathematics.md).
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

struct RouteOptions {
  int64_t top_k = 0;
  bool softmax = false;     // scores: sigmoid of each logit, or softmax over the experts
  bool normalize = true;    // weights divided by (their sum + 1e-20)
  double scale = 1.0;       // weights multiplied by it, after the division
  int64_t groups = 1;       // experts in equal, contiguous groups ...
  int64_t groups_kept = 1;  // ... of which the best are kept: by the sum of their two best biased
                            // scores (sigmoid, DeepSeek-V3) or their best (softmax, DeepSeek-V2)
};

// logits [T, E], bias [E] (selection only). scores [T, E]; experts i32 [T, K] in falling biased
// score, ties to the lower index; weights [T, K]; load i64 [E] += tokens chosen.
using RouteFn = void(Stream&, const RouteOptions&, const Tensor& logits, const Tensor& bias,
                     Tensor& scores, Tensor& experts, Tensor& weights, Tensor& load);

// Sequence balance: for each row of `length` tokens f_i = E/(K·length) · #(i chosen), P_i = mean of
// s_i/Σ_j s_j. loss [1] += scale[0] · Σ_rows Σ_i f_i P_i; f [rows, E] is kept for the gradient (f
// is detached).
using BalanceLossFn = void(Stream&, const RouteOptions&, int64_t length, const Tensor& scores,
                           const Tensor& experts, const Tensor& scale, Tensor& f, Tensor& loss);

// dlogits [T, E] assigned, from dweights [T, K] and, where balance_f is defined, the balance loss
// of scale[0].
using RouteGradFn = void(Stream&, const RouteOptions&, int64_t length, const Tensor& scores,
                         const Tensor& experts, const Tensor& weights, const Tensor& dweights,
                         const Tensor& balance_f, const Tensor& balance_scale, Tensor& dlogits);

// bias[e] += speed · sign(mean load − load[e]), mean a real number, sign(0) = 0. load i64 [E] of
// the global batch; skips where apply[0] (f64 [1]) is 0.
using BiasUpdateFn = void(Stream&, const Tensor& load, double speed, const Tensor& apply,
                          Tensor& bias);

namespace cpu {
RouteFn Route;
BalanceLossFn BalanceLoss;
RouteGradFn RouteGrad;
BiasUpdateFn BiasUpdate;
}  // namespace cpu
namespace gpu {
RouteFn Route;
BalanceLossFn BalanceLoss;
RouteGradFn RouteGrad;
BiasUpdateFn BiasUpdate;
}  // namespace gpu

}  // namespace mneme
