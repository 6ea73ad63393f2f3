#include "kernels/cpu/exp.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {

void SwiGluFast(Stream& stream, const Tensor& gate_up, Tensor& h) {
  if (h.dtype() != DType::kF32) return SwiGlu(stream, gate_up, h);
  const int64_t rows = h.dim(0);
  const int64_t width = h.dim(1);
  CHECK_EQ(gate_up.shape(), (Shape{rows, 2 * width}));
  const float* in = gate_up.data<float>();
  float* out = h.data<float>();
  ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = in + r * 2 * width;
      const float* up = gate + width;
      float* hr = out + r * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) hr[i] = gate[i] * up[i] / (1.0f + Exp(-gate[i]));
    }
  });
}

void SwiGluGradFast(Stream& stream, const Tensor& dh, const Tensor& gate_up, Tensor& d_gate_up) {
  if (dh.dtype() != DType::kF32) return SwiGluGrad(stream, dh, gate_up, d_gate_up);
  const int64_t rows = dh.dim(0);
  const int64_t width = dh.dim(1);
  CHECK_EQ(gate_up.shape(), (Shape{rows, 2 * width}));
  CHECK_EQ(d_gate_up.shape(), gate_up.shape());
  const float* in = gate_up.data<float>();
  const float* dhs = dh.data<float>();
  float* out = d_gate_up.data<float>();
  ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = in + r * 2 * width;
      const float* up = gate + width;
      const float* d = dhs + r * width;
      float* d_gate = out + r * 2 * width;
      float* d_up = d_gate + width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float s = 1.0f / (1.0f + Exp(-gate[i]));
        d_gate[i] = d[i] * up[i] * s * (1.0f + gate[i] * (1.0f - s));
        d_up[i] = d[i] * gate[i] * s;
      }
    }
  });
}

}  // namespace mneme::cpu
