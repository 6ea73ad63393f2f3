// Engram's short depthwise causal convolution with its activation and skip (docs/mathematics.md).
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// y = addend + u + SiLU(c), c[t] = Σ_j w[:, j] ⊙ n[t − dilation·(taps−1−j)]: the last tap is the
// current token. n, u, y [T, C]; w [C, taps]. T is rows of `length` tokens; a tap that falls before
// doc_start[t] (i32 [T], position inside the row) reads zero. An undefined addend adds nothing.
using ShortConvFn = void(Stream&, const Tensor& n, const Tensor& u, const Tensor& addend,
                         const Tensor& w, int64_t dilation, int64_t length, const Tensor& doc_start,
                         Tensor& y);
// dn assigned, dw +=; the gradient of u, and of the addend, is dy itself.
using ShortConvGradFn = void(Stream&, const Tensor& dy, const Tensor& n, const Tensor& w,
                             int64_t dilation, int64_t length, const Tensor& doc_start, Tensor& dn,
                             Tensor& dw);

namespace cpu {
ShortConvFn ShortConv;
ShortConvGradFn ShortConvGrad;
}  // namespace cpu
namespace gpu {
ShortConvFn ShortConv;
ShortConvGradFn ShortConvGrad;
}  // namespace gpu

}  // namespace mneme
