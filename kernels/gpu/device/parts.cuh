// Sums over rows cut into parts: each part leaves its own sum, and they are added in a fixed order,
// in double. So gradients of parameters have the same bits in every run.
#pragma once

#include <algorithm>

#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

inline constexpr int kPartColumns = 32;
inline constexpr int kPartSlices = 16;

// out[i] += Σ_p parts[p * stride + i] for i < columns.
template <class T>
__global__ void __launch_bounds__(kPartColumns* kPartSlices)
    AddPartsKernel(const float* parts, int64_t count, int64_t stride, int64_t columns, T* out) {
  __shared__ double sums[kPartSlices][kPartColumns];
  const int64_t column = int64_t{blockIdx.x} * kPartColumns + threadIdx.x;
  double sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t p = threadIdx.y; p < count; p += kPartSlices) sum += parts[p * stride + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int s = 1; s < kPartSlices; ++s) sum += sums[s][threadIdx.x];
  out[column] = static_cast<T>(out[column] + sum);
}

template <class T>
void AddParts(Stream& stream, const float* parts, int64_t count, int64_t stride, int64_t columns,
              T* out) {
  Launch(stream, AddPartsKernel<T>, dim3(static_cast<unsigned>(CeilDiv(columns, kPartColumns))),
         dim3(kPartColumns, kPartSlices), 0, parts, count, stride, columns, out);
}

}  // namespace mneme::gpu
