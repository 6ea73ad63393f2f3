// Tensor-core products of bf16 fragments for every GPU since sm_80: cp.async, ldmatrix, mma.sync.
// One warp owns a product of 16 rows; tiles lie in shared memory row by row, `stride` elements
// apart, a stride of 16 bytes modulo 128 keeping ldmatrix free of bank conflicts.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace mneme::gpu {

// The address of shared memory as instructions take it.
__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes, aligned on both sides, to shared memory without a register between; zeros if not valid
// (`from` is not read).
__device__ inline void CopyAsync16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(to)),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// Ends a group: of what this thread has copied since the last one.
__device__ inline void CopyAsyncCommit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most `kPending` of the committed groups of this thread are in flight. What other
// threads copied is there after a barrier behind their waits.
template <int kPending>
__device__ inline void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8 × 8 matrices of bf16: lane l gives the address of row l % 8 of matrix l / 8, and gets of
// each matrix i row l / 4, columns 2 (l % 4) and the next in r[i]; Transposed: of the turned ones.
// All lanes call.
__device__ inline void LoadMatrix4(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}
__device__ inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}

// The left operand, 16 × 16 at (row, k) of a tile [row][k].
__device__ inline void LoadLeft(uint32_t (&a)[4], const __nv_bfloat16* tile, int stride, int row,
                                int k) {
  const int lane = threadIdx.x % 32;
  LoadMatrix4(a, tile + (row + lane % 16) * stride + k + lane / 16 * 8);
}
// The right operand for 16 columns n and 16 k, of a tile [n][k]: b[0..1] are columns n .. n + 7.
__device__ inline void LoadRight(uint32_t (&b)[4], const __nv_bfloat16* tile, int stride, int n,
                                 int k) {
  const int lane = threadIdx.x % 32;
  LoadMatrix4(b, tile + (n + lane % 8 + lane / 16 * 8) * stride + k + lane / 8 % 2 * 8);
}
// The same of a tile [k][n].
__device__ inline void LoadRightTransposed(uint32_t (&b)[4], const __nv_bfloat16* tile, int stride,
                                           int n, int k) {
  const int lane = threadIdx.x % 32;
  LoadMatrix4Transposed(b, tile + (k + lane % 16) * stride + n + lane / 16 * 8);
}

// c += a · b, 16 × 8 over 16. Thread l holds rows l/4 and l/4 + 8, columns 2 (l%4) and the next:
// c[0], c[1] of the upper row, c[2], c[3] of the lower.
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers, each rounded to nearest even, in a register: `low` in the lower half.
__device__ inline uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// Two neighbouring 16 × 8 results as the left operand of the next product over those 16 columns.
__device__ inline void ResultAsLeft(uint32_t (&a)[4], const float (&c0)[4], const float (&c1)[4]) {
  a[0] = PackBf16(c0[0], c0[1]);
  a[1] = PackBf16(c0[2], c0[3]);
  a[2] = PackBf16(c1[0], c1[1]);
  a[3] = PackBf16(c1[2], c1[3]);
}

// c [N/8] += x · yᵀ: 16 rows of x from `row`, N rows of y, over a width of K.
template <int N, int K>
__device__ inline void ProductRows(float (&c)[N / 8][4], const __nv_bfloat16* x, int x_stride,
                                   int row, const __nv_bfloat16* y, int y_stride) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    uint32_t a[4];
    LoadLeft(a, x, x_stride, row, k);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t b[4];
      LoadRight(b, y, y_stride, n, k);
      Mma(c[n / 8], a, b[0], b[1]);
      Mma(c[n / 8 + 1], a, b[2], b[3]);
    }
  }
}

// c [N/8] += p · y: p 16 × K as results, y [K][N].
template <int N, int K>
__device__ inline void ProductOfResult(float (&c)[N / 8][4], const float (&p)[K / 8][4],
                                       const __nv_bfloat16* y, int y_stride) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    uint32_t a[4];
    ResultAsLeft(a, p[k / 8], p[k / 8 + 1]);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t b[4];
      LoadRightTransposed(b, y, y_stride, n, k);
      Mma(c[n / 8], a, b[0], b[1]);
      Mma(c[n / 8 + 1], a, b[2], b[3]);
    }
  }
}

}  // namespace mneme::gpu
