// Fill, copy, cast, add, scale: one pass each, bound by memory. A grid-stride loop over vectors of
// 16 bytes, with a scalar loop where addresses or counts do not allow them.
// Floor: bytes read and written over the copy bandwidth.
#include <algorithm>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/elementwise.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;

// Blocks for n items, at most a few waves.
dim3 Blocks(Stream& stream, int64_t items) {
  const int64_t most = int64_t{QueueOf(stream).multiprocessors} * 16;
  return dim3(static_cast<unsigned>(std::min(CeilDiv(items, kThreads), most)));
}

__device__ __forceinline__ int64_t First() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t Step() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

template <class T>
__global__ void FillKernel(T value, int64_t n, T* x) {
  for (int64_t i = First(); i < n; i += Step()) x[i] = value;
}

template <class X, class Y>
__global__ void CastKernel(const X* x, int64_t n, Y* y) {
  for (int64_t i = First(); i < n; i += Step()) {
    y[i] = static_cast<Y>(static_cast<float>(x[i]));
  }
}
template <class T, int N>
__global__ void AddKernel(const T* x, int64_t n, T* y) {
  const int64_t groups = n / N;
  for (int64_t i = First(); i < groups; i += Step()) {
    float a[N];
    float b[N];
    LoadFloats<N>(x + i * N, a);
    LoadFloats<N>(y + i * N, b);
#pragma unroll
    for (int j = 0; j < N; ++j) b[j] += a[j];
    StoreFloats<N>(y + i * N, b);
  }
  for (int64_t i = groups * N + First(); i < n; i += Step()) {
    y[i] = FromFloat<T>(ToFloat(x[i]) + ToFloat(y[i]));
  }
}

template <class T>
__global__ void ScaleKernel(const T* factor, int64_t n, T* x) {
  const float by = ToFloat(factor[0]);
  for (int64_t i = First(); i < n; i += Step()) x[i] = FromFloat<T>(ToFloat(x[i]) * by);
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class T>
void FillWith(Stream& stream, T value, Tensor& x) {
  Launch(stream, FillKernel<T>, Blocks(stream, x.elements()), kThreads, 0, value, x.elements(),
         Data<T>(x));
}

}  // namespace

void Fill(Stream& stream, double value, Tensor& x) {
  switch (x.dtype()) {
    case DType::kF32:
      return FillWith(stream, static_cast<float>(value), x);
    case DType::kF64:
      return FillWith(stream, value, x);
    case DType::kBf16:
      return FillWith(stream, __float2bfloat16_rn(static_cast<float>(value)), x);
    case DType::kU8:
      return FillWith(stream, static_cast<uint8_t>(value), x);
    case DType::kI32:
      return FillWith(stream, static_cast<int32_t>(value), x);
    case DType::kI64:
      return FillWith(stream, static_cast<int64_t>(value), x);
  }
}

void Copy(Stream& stream, const Tensor& x, Tensor& y) {
  CHECK_EQ(Name(x.dtype()), Name(y.dtype()));
  CHECK_EQ(x.elements(), y.elements());
  if (x.bytes() == 0) return;
  Check(cudaMemcpyAsync(y.raw(), x.raw(), static_cast<size_t>(x.bytes()), cudaMemcpyDeviceToDevice,
                        QueueOf(stream).stream));
}

void Cast(Stream& stream, const Tensor& x, Tensor& y) {
  CHECK_EQ(x.elements(), y.elements());
  const int64_t n = x.elements();
  const dim3 grid = Blocks(stream, n);
  DispatchActivation(x.dtype(), [&](auto from) {
    DispatchActivation(y.dtype(), [&](auto to) {
      using X = decltype(from);
      using Y = decltype(to);
      Launch(stream, CastKernel<X, Y>, grid, kThreads, 0, Data<X>(x), n, Data<Y>(y));
    });
  });
}

void Add(Stream& stream, const Tensor& x, Tensor& y) {
  CHECK_EQ(x.elements(), y.elements());
  const int64_t n = y.elements();
  DispatchActivation(y.dtype(), [&](auto real) {
    using T = decltype(real);
    constexpr int kN = kVec<T>;
    if (Aligned(x.raw()) && Aligned(y.raw())) {
      Launch(stream, AddKernel<T, kN>, Blocks(stream, CeilDiv(n, kN)), kThreads, 0, Data<T>(x), n,
             Data<T>(y));
    } else {
      Launch(stream, AddKernel<T, 1>, Blocks(stream, n), kThreads, 0, Data<T>(x), n, Data<T>(y));
    }
  });
}

void Scale(Stream& stream, const Tensor& factor, Tensor& x) {
  const int64_t n = x.elements();
  DispatchActivation(x.dtype(), [&](auto real) {
    using T = decltype(real);
    Launch(stream, ScaleKernel<T>, Blocks(stream, n), kThreads, 0, Data<T>(factor), n, Data<T>(x));
  });
}

}  // namespace mneme::gpu
