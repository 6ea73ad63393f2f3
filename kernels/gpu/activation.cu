// SwiGLU and its gradient: one pass, bound by memory. A thread takes 16 bytes of gate and the 16
// of up beside them; widths that are no multiple of that go element by element.
// Floor: R · F · 3 elements forward and R · F · 5 backward over the copy bandwidth; a dense layer
// of the 27B shape (R 16,384, F 3,072 of the shared experts): 302 and 503 MB in bf16.
#include <algorithm>
#include <type_traits>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/activation.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;

// σ(x); the float mode keeps the accurate exponential.
template <class A>
__device__ __forceinline__ float Sigmoid(float x) {
  if constexpr (sizeof(A) == 2) return __fdividef(1.0f, 1.0f + __expf(-x));
  return 1.0f / (1.0f + expf(-x));
}

// Item i is vector i % per_row of row i / per_row.
struct Place {
  int64_t row;
  int64_t column;
};
template <int kN>
__device__ __forceinline__ Place PlaceOf(int64_t width) {
  const int64_t item =
      int64_t{blockIdx.y} * gridDim.x * kThreads + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t per_row = width / kN;
  if (item < int64_t{0xffffffff} && per_row < int64_t{0xffffffff}) {
    const auto small = static_cast<uint32_t>(item);
    const auto by = static_cast<uint32_t>(per_row);
    return {small / by, static_cast<int64_t>(small % by) * kN};
  }
  return {item / per_row, item % per_row * kN};
}

template <class A, int kN>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(const A* gate_up, int64_t rows, int64_t width, A* h) {
  const Place at = PlaceOf<kN>(width);
  if (at.row >= rows) return;
  const A* from = gate_up + at.row * 2 * width + at.column;
  float gate[kN];
  float up[kN];
  LoadFloats<kN>(from, gate);
  LoadFloats<kN>(from + width, up);
#pragma unroll
  for (int i = 0; i < kN; ++i) up[i] *= gate[i] * Sigmoid<A>(gate[i]);
  StoreFloats<kN>(h + at.row * width + at.column, up);
}

// With s = σ(gate): d gate = dh · up · s · (1 + gate · (1 − s)), d up = dh · gate · s.
template <class A, int kN>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(const A* dh, const A* gate_up, int64_t rows, int64_t width, A* d_gate_up) {
  const Place at = PlaceOf<kN>(width);
  if (at.row >= rows) return;
  const int64_t offset = at.row * 2 * width + at.column;
  float gate[kN];
  float up[kN];
  float d[kN];
  LoadFloats<kN>(gate_up + offset, gate);
  LoadFloats<kN>(gate_up + offset + width, up);
  LoadFloats<kN>(dh + at.row * width + at.column, d);
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const float s = Sigmoid<A>(gate[i]);
    const float d_up = d[i] * gate[i] * s;
    gate[i] = d[i] * up[i] * s * (1.0f + gate[i] * (1.0f - s));
    up[i] = d_up;
  }
  StoreFloats<kN>(d_gate_up + offset, gate);
  StoreFloats<kN>(d_gate_up + offset + width, up);
}

dim3 Grid(int64_t items) {
  constexpr int64_t kMostX = 1 << 20;
  const int64_t blocks = CeilDiv(items, kThreads);
  return dim3(static_cast<unsigned>(std::min(blocks, kMostX)),
              static_cast<unsigned>(CeilDiv(blocks, kMostX)));
}

// Calls f(A{}, vector width as a constant).
template <class F>
void Dispatch(DType dtype, int64_t width, F&& f) {
  DispatchActivation(dtype, [&](auto real) {
    using A = decltype(real);
    if (width % kVec<A> == 0) return f(real, std::integral_constant<int, kVec<A>>{});
    f(real, std::integral_constant<int, 1>{});
  });
}

}  // namespace

void SwiGlu(Stream& stream, const Tensor& gate_up, Tensor& h) {
  const int64_t rows = h.dim(0);
  const int64_t width = h.dim(1);
  CHECK_EQ(gate_up.shape(), (Shape{rows, 2 * width}));
  if (h.elements() == 0) return;
  Dispatch(h.dtype(), width, [&](auto real, auto n) {
    using A = decltype(real);
    constexpr int kN = decltype(n)::value;
    Launch(stream, ForwardKernel<A, kN>, Grid(rows * width / kN), kThreads, 0, Data<A>(gate_up),
           rows, width, Data<A>(h));
  });
}

void SwiGluGrad(Stream& stream, const Tensor& dh, const Tensor& gate_up, Tensor& d_gate_up) {
  const int64_t rows = dh.dim(0);
  const int64_t width = dh.dim(1);
  CHECK_EQ(gate_up.shape(), (Shape{rows, 2 * width}));
  CHECK_EQ(d_gate_up.shape(), gate_up.shape());
  if (dh.elements() == 0) return;
  Dispatch(dh.dtype(), width, [&](auto real, auto n) {
    using A = decltype(real);
    constexpr int kN = decltype(n)::value;
    Launch(stream, BackwardKernel<A, kN>, Grid(rows * width / kN), kThreads, 0, Data<A>(dh),
           Data<A>(gate_up), rows, width, Data<A>(d_gate_up));
  });
}

}  // namespace mneme::gpu
