// The gradient of kN bf16 streams, at most four, over a step of 16 tokens, on tensor cores; shared
// by the kernels of hyper_project.cu and hyper_grad_sm90.cu. A warp owns 32 columns of every
// stream; lane (g, q) holds columns 8q … 8q + 7 of tokens g and g + 8. Device code only.
#pragma once

#include "kernels/gpu/device/fragment.cuh"
#include "kernels/gpu/device/mma.cuh"
#include "kernels/gpu/hyper.h"

namespace mneme::gpu {

inline constexpr int kStreams = 4;   // at most
inline constexpr int kStep = 16;     // tokens
inline constexpr int kOwn = 32;      // columns of a warp
inline constexpr int kColumns = 24;  // of φ at most

// What all warps of a block read of a step's tokens.
template <int kN>
struct alignas(16) TokenStage {
  float du[kStep][kColumns];  // columns that φ does not have are 0
  float res[kStep][kN][kN];   // [i][j], i output and j input stream
  float pre[kStep][kN];       // weights of h
  float factor[kStep];        // of x itself in dx; see StreamsGrad
};

// x̃ᵀ du of a warp's columns: streams, pairs of fragments, blocks of 8 columns of φ.
template <int kN>
using WeightSums = float[kN][2][3][4];

// Column 2j + (n % 2) + 8 (n / 2) of a block of 32 is column n of its fragment j: so a lane's
// results of the four fragments are eight neighbours.
__device__ __forceinline__ int FragmentColumn(int j, int n) { return 8 * (n / 2) + 2 * j + n % 2; }

// The part of φ that lane (g, q) holds of fragment j of stream s, as bf16: columns 2q, 2q + 1 of
// each of three blocks of 8. width: of a stream; column: the first of the warp's.
__device__ __forceinline__ uint3 WeightFragment(const Projection& w, int width, int column, int s,
                                                int j) {
  const int g = threadIdx.x % 32 / 4;
  const int q = threadIdx.x % 4;
  const float* from = w.weights + (s * width + column + FragmentColumn(j, g)) * w.row_stride;
  uint32_t pair[3];
#pragma unroll
  for (int p = 0; p < 3; ++p) {
    const int c = 8 * p + 2 * q;
    const float low = c < w.columns ? from[c * w.column_stride] : 0.0f;
    const float high = c + 1 < w.columns ? from[(c + 1) * w.column_stride] : 0.0f;
    pair[p] = PackBf16(low, high);
  }
  return make_uint3(pair[0], pair[1], pair[2]);
}

// Eight numbers, rounded, as 16 bytes.
__device__ __forceinline__ void StoreEight(__nv_bfloat16* to, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(PackBf16(v[0], v[1]), PackBf16(v[2], v[3]),
                                             PackBf16(v[4], v[5]), PackBf16(v[6], v[7]));
}

// A copy of four bytes to shared memory that no register holds; 0 if not valid. Joins the groups of
// CopyAsyncCommit.
__device__ __forceinline__ void CopyFloatAsync(float* to, const float* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}

// dx of a step, and its share of x̃ᵀ du. x(half, s), dh(half), dout(half, s): this lane's 16 bytes;
// weights(s, j): its fragment of φ. `dx` is the lane's place in the step's first token, `count` the
// tokens that are there; what is handed over of the others must be 0 for `sums` to be right.
// kResidual: with the part of dout through res; dout is not asked for otherwise.
template <bool kResidual, int kN, class X, class Dh, class Dout, class Weights>
__device__ __forceinline__ void StreamsStep(const TokenStage<kN>& token, X&& x, Dh&& dh,
                                            Dout&& dout, Weights&& weights, int width,
                                            int64_t count, __nv_bfloat16* dx,
                                            WeightSums<kN>& sums) {
  const int g = threadIdx.x % 32 / 4;
  const int q = threadIdx.x % 4;
  uint32_t du[3][2];  // rows g and g + 8, columns 8p + 2q and the next
  uint32_t du_turned[3][2];
#pragma unroll
  for (int p = 0; p < 3; ++p) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* from = &token.du[g + 8 * half][8 * p + 2 * q];
      du[p][half] = PackBf16(from[0], from[1]);
      du_turned[p][half] = Transposed(du[p][half]);
    }
  }
  const uint32_t left[4] = {du[0][0], du[0][1], du[1][0], du[1][1]};
#pragma unroll
  for (int s = 0; s < kN; ++s) {
    float out[2][8];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint3 w = weights(s, j);
      float c[4] = {};
      Mma(c, left, w.x, w.y);
      MmaHalf(c, du[2][0], du[2][1], w.z);
      out[0][2 * j] = c[0];
      out[0][2 * j + 1] = c[1];
      out[1][2 * j] = c[2];
      out[1][2 * j + 1] = c[3];
    }
    uint32_t turned[2][4];  // x of this stream: halves of the tokens, fragments
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + 8 * half;
      const uint4 v = x(half, s);
      AddScaled(out[half], token.factor[row], v);
      AddScaled(out[half], token.pre[row][s], dh(half));
      if constexpr (kResidual) {
#pragma unroll
        for (int i = 0; i < kN; ++i) {
          AddScaled(out[half], token.res[row][i][s], dout(half, i));
        }
      }
      if (row < count) StoreEight(dx + (int64_t{row} * kN + s) * width, out[half]);
      turned[half][0] = Transposed(v.x);
      turned[half][1] = Transposed(v.y);
      turned[half][2] = Transposed(v.z);
      turned[half][3] = Transposed(v.w);
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const uint32_t rows[4] = {turned[0][2 * pair], turned[0][2 * pair + 1], turned[1][2 * pair],
                                turned[1][2 * pair + 1]};
#pragma unroll
      for (int n = 0; n < 3; ++n) Mma(sums[s][pair][n], rows, du_turned[n][0], du_turned[n][1]);
    }
  }
}

// Stores the sums of this warp's columns: `part` is laid out as w and assigned, no other warp
// writes these.
template <int kN>
__device__ __forceinline__ void StoreSums(const WeightSums<kN>& sums, const Projection& w,
                                          int width, int column, float* part) {
  const int g = threadIdx.x % 32 / 4;
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int s = 0; s < kN; ++s) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t k = s * width + column + FragmentColumn(2 * pair + half, g);
#pragma unroll
        for (int n = 0; n < 3; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int c = 8 * n + 2 * q + e;
            if (c < w.columns) {
              part[k * w.row_stride + c * w.column_stride] = sums[s][pair][n][2 * half + e];
            }
          }
        }
      }
    }
  }
}

}  // namespace mneme::gpu
