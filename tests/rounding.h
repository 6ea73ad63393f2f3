// The CPU's ops, of which `cast` rounds to bf16 too: for what is laid out as in a bf16 run and
// computes nothing.
#pragma once

#include "kernels/kernels.h"

namespace mneme::test {

inline void CastOrRound(Stream& stream, const Tensor& x, Tensor& y) {
  if (y.dtype() != DType::kBf16) return cpu::Cast(stream, x, y);
  CHECK_EQ(x.elements(), y.elements());
  const float* from = x.data<float>();
  BFloat16* to = y.data<BFloat16>();
  for (int64_t i = 0; i < x.elements(); ++i) to[i] = BFloat16(from[i]);
}

inline const Kernels& RoundingKernels() {
  static const Kernels kernels = [] {
    Kernels table = CpuKernels();
    table.cast = CastOrRound;
    return table;
  }();
  return kernels;
}

}  // namespace mneme::test
