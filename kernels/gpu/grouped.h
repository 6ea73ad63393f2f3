// Grouped matrix products, as the ops of experts and of matmul.h use them.
#pragma once

#include "kernels/ops/matmul.h"

namespace mneme::gpu {

// gate_up rows = a rows · w[e]ᵀ, act rows = SiLU(left half) · right half. a [R, k], w [E, 2n, k],
// gate_up [R, 2n], act [R, n]. Rows beyond offsets[E] are left alone.
void GroupedSwiGlu(Stream& stream, const Tensor& a, const Tensor& w, const Tensor& offsets,
                   Tensor& gate_up, Tensor& act);

}  // namespace mneme::gpu
