// RMSNorm (Zhang & Sennrich 2019) and its gradient.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// y = x · rstd · w, rstd = rsqrt(mean(x²) + eps), row by row. x, y [R, D]; w [M, D], row r uses w
// row r % M (M branches; 1 for an ordinary norm); rstd [R] is kept for the gradient.
using RmsNormFn = void(Stream&, const Tensor& x, const Tensor& w, double eps, Tensor& y,
                       Tensor& rstd);

// dx = addend + the gradient: what reaches x by another way is added here. An undefined addend adds
// nothing. dw += .
using RmsNormGradFn = void(Stream&, const Tensor& dy, const Tensor& x, const Tensor& w,
                           const Tensor& rstd, const Tensor& addend, Tensor& dx, Tensor& dw);

namespace cpu {
RmsNormFn RmsNorm;
RmsNormGradFn RmsNormGrad;
}  // namespace cpu
namespace gpu {
RmsNormFn RmsNorm;
RmsNormGradFn RmsNormGrad;
}  // namespace gpu

}  // namespace mneme
