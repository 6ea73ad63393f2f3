// Tensor-core fragments that come straight from global memory, 16 bytes a lane: a product may run
// over its inner index in any order, so lane (g, q) = (lane / 4, lane % 4) takes elements
// 8q … 8q + 7 of row g, and the other operand is read in the same order. Device code only.
#pragma once

#include <cstdint>

namespace mneme::gpu {

// c += a · b, 16 × 8 over 8: the lower half of the inner index of Mma (mma.cuh).
__device__ __forceinline__ void MmaHalf(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}

// An 8 × 8 matrix of bf16, row g in the four lanes (g, ·), turned over its diagonal.
__device__ __forceinline__ uint32_t Transposed(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(out) : "r"(pair));
  return out;
}

// The two bf16 of a register, exactly.
__device__ __forceinline__ float LowFloat(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighFloat(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Σ of the squares of eight bf16, in their order.
__device__ __forceinline__ float SquaresOf(uint4 v) {
  const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(LowFloat(pairs[i]), LowFloat(pairs[i]), sum);
    sum = fmaf(HighFloat(pairs[i]), HighFloat(pairs[i]), sum);
  }
  return sum;
}

// ⟨a, b⟩ of eight bf16 each, in their order.
__device__ __forceinline__ float DotEight(uint4 a, uint4 b) {
  const uint32_t left[4] = {a.x, a.y, a.z, a.w};
  const uint32_t right[4] = {b.x, b.y, b.z, b.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(LowFloat(left[i]), LowFloat(right[i]), sum);
    sum = fmaf(HighFloat(left[i]), HighFloat(right[i]), sum);
  }
  return sum;
}

// to[i] += by · v[i], v eight bf16.
__device__ __forceinline__ void AddScaled(float (&to)[8], float by, uint4 v) {
  const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = fmaf(by, LowFloat(pairs[i]), to[2 * i]);
    to[2 * i + 1] = fmaf(by, HighFloat(pairs[i]), to[2 * i + 1]);
  }
}

}  // namespace mneme::gpu
