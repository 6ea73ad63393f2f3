// What the compressing product of keys and values gives, taken apart: the normed latent and the
// rotated positional key (docs/mathematics.md), and the gradient of both as one.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// x [T, L + R]: normed [T, L] = RMSNorm of the first L with the gain w [1, L]; rotary [T, R] = the
// rest turned as by the op `rope` (table [P, R/2, 2], positions i32 [T]). rstd [T] is kept for the
// gradient.
using LatentFn = void(Stream&, const Tensor& x, const Tensor& w, double eps, const Tensor& table,
                      const Tensor& positions, Tensor& normed, Tensor& rotary, Tensor& rstd);

// dx [T, L + R] assigned; dw += .
using LatentGradFn = void(Stream&, const Tensor& dnormed, const Tensor& drotary, const Tensor& x,
                          const Tensor& w, const Tensor& rstd, const Tensor& table,
                          const Tensor& positions, Tensor& dx, Tensor& dw);

namespace cpu {
LatentFn Latent;
LatentGradFn LatentGrad;
}  // namespace cpu
namespace gpu {
LatentFn Latent;
LatentGradFn LatentGrad;
}  // namespace gpu

}  // namespace mneme
