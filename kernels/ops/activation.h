// SwiGLU: h = SiLU(gate) · up (docs/mathematics.md).
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// gate_up [R, 2F]: gate, then up; h [R, F].
using SwiGluFn = void(Stream&, const Tensor& gate_up, Tensor& h);
// d_gate_up assigned.
using SwiGluGradFn = void(Stream&, const Tensor& dh, const Tensor& gate_up, Tensor& d_gate_up);

namespace cpu {
SwiGluFn SwiGlu;
SwiGluGradFn SwiGluGrad;
}  // namespace cpu
namespace gpu {
SwiGluFn SwiGlu;
SwiGluGradFn SwiGluGrad;
}  // namespace gpu

}  // namespace mneme
