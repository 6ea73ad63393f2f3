// Sums over rows cut into parts: each part leaves its own sum, and they are added in a fixed order,
// in double. So gradients of parameters have the same bits in every run.
#pragma once

#include <algorithm>

#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

inline constexpr int kPartThreads = 256;

// out[i] += Σ_p parts[p * stride + i] for i < columns. kSlices threads share the parts of a column:
// slice s adds parts s, s + kSlices, …, then the slices are added in order.
template <int kSlices, class Out>
__global__ void __launch_bounds__(kPartThreads)
    AddPartsKernel(const float* parts, int64_t count, int64_t stride, int64_t columns, Out out) {
  constexpr int kColumns = kPartThreads / kSlices;
  __shared__ double sums[kSlices][kColumns];
  const int slice = static_cast<int>(threadIdx.x) / kColumns;
  const int of_block = static_cast<int>(threadIdx.x) % kColumns;
  const int64_t column = int64_t{blockIdx.x} * kColumns + of_block;
  double sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t p = slice; p < count; p += kSlices) sum += parts[p * stride + column];
  }
  if constexpr (kSlices > 1) {
    sums[slice][of_block] = sum;
    __syncthreads();
    if (slice != 0) return;
    for (int s = 1; s < kSlices; ++s) sum += sums[s][of_block];
  }
  if (column < columns) out[column] = static_cast<float>(out[column] + sum);
}

// The same, queued: parts f32, `count` of them, `stride` elements apart; few parts are added by one
// thread a column. `out`: a pointer to device memory, or whatever out[i] makes sense of there; it
// is read and written as f32.
template <class Out>
void AddParts(Stream& stream, const float* parts, int64_t count, int64_t stride, int64_t columns,
              Out out) {
  constexpr int kMany = 32;
  const auto launch = [&](auto kernel, int slices) {
    Launch(stream, kernel, dim3(static_cast<unsigned>(CeilDiv(columns * slices, kPartThreads))),
           kPartThreads, 0, parts, count, stride, columns, out);
  };
  if (count < kMany) return launch(AddPartsKernel<1, Out>, 1);
  launch(AddPartsKernel<kMany, Out>, kMany);
}

}  // namespace mneme::gpu
