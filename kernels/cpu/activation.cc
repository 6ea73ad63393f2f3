#include "kernels/ops/activation.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {

void SwiGlu(Stream&, const Tensor& gate_up, Tensor& h) {
  const int64_t rows = h.dim(0);
  const int64_t width = h.dim(1);
  CHECK_EQ(gate_up.shape(), (Shape{rows, 2 * width}));
  DispatchReal(h.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* in = gate_up.data<T>();
    T* out = h.data<T>();
    ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* gate = in + r * 2 * width;
        const T* up = gate + width;
        for (int64_t i = 0; i < width; ++i) {
          out[r * width + i] = gate[i] / (T{1} + std::exp(-gate[i])) * up[i];
        }
      }
    });
  });
}

// With s = σ(gate): d gate = dh · up · s · (1 + gate · (1 − s)), d up = dh · gate · s.
void SwiGluGrad(Stream&, const Tensor& dh, const Tensor& gate_up, Tensor& d_gate_up) {
  const int64_t rows = dh.dim(0);
  const int64_t width = dh.dim(1);
  CHECK_EQ(gate_up.shape(), (Shape{rows, 2 * width}));
  CHECK_EQ(d_gate_up.shape(), gate_up.shape());
  DispatchReal(dh.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* in = gate_up.data<T>();
    const T* dhs = dh.data<T>();
    T* out = d_gate_up.data<T>();
    ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* gate = in + r * 2 * width;
        const T* up = gate + width;
        T* d_gate = out + r * 2 * width;
        T* d_up = d_gate + width;
        for (int64_t i = 0; i < width; ++i) {
          const T s = T{1} / (T{1} + std::exp(-gate[i]));
          const T d = dhs[r * width + i];
          d_gate[i] = d * up[i] * s * (T{1} + gate[i] * (T{1} - s));
          d_up[i] = d * gate[i] * s;
        }
      }
    });
  });
}

}  // namespace mneme::cpu
