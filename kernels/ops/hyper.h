// mHC: manifold-constrained hyper-connections (docs/mathematics.md). n residual streams
// of width C.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

struct HyperOptions {
  int64_t streams = 4;
  int64_t sinkhorn_iterations = 20;
  double norm_eps = 1e-20;  // inside r = sqrt(mean(x̃²) + norm_eps)
  double eps =
      1e-6;  // added to pre, after the first softmax, to every row and column sum, to the read-out
  double post_mult = 2.0;
};

// The way into a sub-layer: its three mixes, from all streams, and the inner layer's input
// h [T, C] = Σ_i pre_i x_i. m = (x̃ φ) / r; pre = σ(α₀ m + b) + eps; post = post_mult · σ(α₁ m + b);
// res = Sinkhorn of exp(α₂ m + b): softmax over i, + eps; each row (over j) / (its sum + eps); then
// iterations − 1 times each column / (sum + eps), each row / (sum + eps). It ends with the weights
// of every output stream summing to one. x [T, n, C]; phi [nC, n² + 2n], row = stream-major x̃,
// column 2n + n·i + j = logit of H_res[i, j] (i output, j input); alpha [3]; b [n² + 2n]. r [T],
// m [T, n² + 2n] are kept; pre, post [T, n]; res [T, n, n].
using HyperEnterFn = void(Stream&, const HyperOptions&, const Tensor& x, const Tensor& phi,
                          const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m, Tensor& pre,
                          Tensor& post, Tensor& res, Tensor& h);
// The way out: out_i = Σ_j res[i, j] x_j + post_i y. x, out [T, n, C]; y [T, C].
using HyperLeaveFn = void(Stream&, const Tensor& x, const Tensor& res, const Tensor& post,
                          const Tensor& y, Tensor& out);
// Out of one sub-layer and into the next: HyperLeave of x, res, post and y, then HyperEnter of out
// with the rest, in one pass over the streams where a device can.
using HyperLeaveEnterFn = void(Stream&, const HyperOptions&, const Tensor& x, const Tensor& res,
                               const Tensor& post, const Tensor& y, Tensor& out, const Tensor& phi,
                               const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m,
                               Tensor& next_pre, Tensor& next_post, Tensor& next_res, Tensor& h);
// The way back in: dres, dpost, dy assigned. What flows to x through the way out is left to
// HyperEnterGrad, which makes dx in one pass.
using HyperLeaveGradFn = void(Stream&, const Tensor& dout, const Tensor& x, const Tensor& post,
                              const Tensor& y, Tensor& dres, Tensor& dpost, Tensor& dy);
// The way back out, when the inner layer has turned dy into dh: dx [T, n, C] assigned, the whole of
// it; dphi, dalpha, db +=. Sinkhorn is run again and walked back.
using HyperEnterGradFn = void(Stream&, const HyperOptions&, const Tensor& dout, const Tensor& dh,
                              const Tensor& dres, const Tensor& dpost, const Tensor& x,
                              const Tensor& phi, const Tensor& alpha, const Tensor& b,
                              const Tensor& r, const Tensor& m, const Tensor& pre,
                              const Tensor& res, Tensor& dx, Tensor& dphi, Tensor& dalpha,
                              Tensor& db);

// Learned read-out: x̂ = x̃/r, w = σ(scale · x̂ fnᵀ + base) + eps, h = Σ_i w_i x_i. fn [n, nC], scale
// [1], base [n]. r [T], w [T, n], logit [T, n] = x̂ fnᵀ are kept; h [T, C].
using HyperReadFn = void(Stream&, const HyperOptions&, const Tensor& x, const Tensor& fn,
                         const Tensor& scale, const Tensor& base, Tensor& r, Tensor& logit,
                         Tensor& w, Tensor& h);
// dx assigned; dfn, dscale, dbase +=.
using HyperReadGradFn = void(Stream&, const HyperOptions&, const Tensor& dh, const Tensor& x,
                             const Tensor& fn, const Tensor& scale, const Tensor& base,
                             const Tensor& r, const Tensor& logit, const Tensor& w, Tensor& dx,
                             Tensor& dfn, Tensor& dscale, Tensor& dbase);

// Copies x [T, C] into each of the n streams of out [T, n, C]; the gradient sums them.
using HyperExpandFn = void(Stream&, const Tensor& x, Tensor& out);
// h [T, C] = factor · Σ_i x_i: the gradient of expand (factor 1), and the read-outs `sum` (1) and
// `mean` (1/n).
using HyperReduceFn = void(Stream&, const Tensor& x, double factor, Tensor& h);

namespace cpu {
HyperEnterFn HyperEnter;
HyperLeaveFn HyperLeave;
HyperLeaveEnterFn HyperLeaveEnter;
HyperLeaveGradFn HyperLeaveGrad;
HyperEnterGradFn HyperEnterGrad;
HyperReadFn HyperRead;
HyperReadGradFn HyperReadGrad;
HyperExpandFn HyperExpand;
HyperReduceFn HyperReduce;
}  // namespace cpu
namespace gpu {
HyperEnterFn HyperEnter;
HyperLeaveFn HyperLeave;
HyperLeaveEnterFn HyperLeaveEnter;
HyperLeaveGradFn HyperLeaveGrad;
HyperEnterGradFn HyperEnterGrad;
HyperReadFn HyperRead;
HyperReadGradFn HyperReadGrad;
HyperExpandFn HyperExpand;
HyperReduceFn HyperReduce;
}  // namespace gpu

}  // namespace mneme
