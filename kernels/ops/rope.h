// Rotary positions on interleaved pairs (2i, 2i+1) taken as complex numbers (docs/mathematics.md).
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// Rotates, in place, elements [begin, begin + R) of the last dim of x [T, H, d]:
// (x_{2i} + i x_{2i+1}) · exp(± i · angle). table [P, R/2, 2] holds cos and sin of position p;
// positions i32 [T] index it. `inverse` turns the other way: the gradient of the op is the op with
// the flag turned.
using RopeFn = void(Stream&, Tensor& x, int64_t begin, const Tensor& table, const Tensor& positions,
                    bool inverse);

namespace cpu {
RopeFn Rope;
}  // namespace cpu
namespace gpu {
RopeFn Rope;
}  // namespace gpu

}  // namespace mneme
