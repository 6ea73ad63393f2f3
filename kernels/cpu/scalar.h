// Reads one number of a real tensor, whichever real type it has: scales and step scalars.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme::cpu {

inline double Scalar(const Tensor& t, int64_t index = 0) {
  CHECK_LT(index, t.elements());
  return DispatchReal(
      t.dtype(), [&](auto real) { return static_cast<double>(t.data<decltype(real)>()[index]); });
}

}  // namespace mneme::cpu
