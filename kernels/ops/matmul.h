// Matrix products with fp32 accumulation (f64 where the run is f64).
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

enum class Trans : bool { kNo, kYes };

// c = op(a) · op(b) + addend. 2-D, row-major, one dtype; op transposes as the flag says. The addend
// is of c's shape and dtype: c itself accumulates, an undefined one adds nothing.
using MatmulFn = void(Stream&, const Tensor& a, Trans ta, const Tensor& b, Trans tb,
                      const Tensor& addend, Tensor& c);

// Rows [offsets[e], offsets[e+1]) of a [R, k] belong to group e: c rows = a rows · op(b[e]).
// b [E, m, n], op(b[e]) is k × width of c. offsets i64 [E+1]; rows beyond offsets[E] are left
// alone.
using GroupedMatmulFn = void(Stream&, const Tensor& a, const Tensor& b, Trans tb,
                             const Tensor& offsets, Tensor& c);

// dw[e] += a_rowsᵀ · b_rows for each group; dw [E, a.dim(1), b.dim(1)].
using GroupedMatmulWeightGradFn = void(Stream&, const Tensor& a, const Tensor& b,
                                       const Tensor& offsets, Tensor& dw);

namespace cpu {
MatmulFn Matmul;
GroupedMatmulFn GroupedMatmul;
GroupedMatmulWeightGradFn GroupedMatmulWeightGrad;
}  // namespace cpu
namespace gpu {
MatmulFn Matmul;
GroupedMatmulFn GroupedMatmul;
GroupedMatmulWeightGradFn GroupedMatmulWeightGrad;
}  // namespace gpu

}  // namespace mneme
