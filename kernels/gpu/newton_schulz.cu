// Newton-Schulz of small matrices: a block takes a matrix X [n, m], n <= m, from its first step to
// its last in shared memory, where A = X Xᵀ, B = bA + cA² and X' = aX + BX follow each other
// without a launch between them. All are rounded to bf16 where products of cuBLASLt, which take the
// larger matrices (update.cu), leave them in memory. A matrix that is taller than wide stands in
// shared memory turned.
//
// Four warps have a quarter each of a product of kN x kN: of 128 x 128 that is 16 KB of fragments
// for 128 products a 16 of its depth, 128 cycles of shared memory beside some 240 of the tensor
// cores (mma.sync).
//
// Floor of 128 x 256, five steps: 105 MFLOP and 131 KB moved. 1,410 of them, the experts of
// configs/runs/sweep_small.yaml at rho 0.8: 148 GFLOP, 0.19 ms at 790 TFLOP/s, and 0.18 GB, 0.05
// ms.
#include <algorithm>

#include "kernels/gpu/device/mma.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/newton_schulz.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kVector = 8;  // bf16 numbers of 16 bytes

struct Steps {
  int count;
  float a, b, c;
  double eps;
};

// Where a matrix stands: rows x columns in memory, n x m in shared memory.
struct Place {
  bf16* x;
  int rows, columns, m;
  int stride;  // of a row in shared memory
  bool vectors;

  __device__ bool turned() const { return rows > columns; }
};

// A warp's share of a product of kN x kN.
template <int kN>
struct Share {
  static constexpr int kRows = kN / 2, kColumns = kN / 2;
  float c[kRows / 16][kColumns / 8][4];

  __device__ static int Row() { return static_cast<int>(threadIdx.x) / kWarp / 2 * kRows; }
  __device__ static int Column() { return static_cast<int>(threadIdx.x) / kWarp % 2 * kColumns; }

  // left [kN, depth] times the columns [begin, end) of right: its rows [n][k], or [k][n] where
  // kAcross. depth and end - begin are multiples of 16; columns from `end` on stay 0. kWhole: there
  // are kN columns.
  template <bool kAcross, bool kWhole>
  __device__ void Multiply(const bf16* left, int left_stride, const bf16* right, int right_stride,
                           int depth, int begin, int end) {
#pragma unroll
    for (auto& row : c) {
      for (auto& four : row) four[0] = four[1] = four[2] = four[3] = 0;
    }
    const int first = begin + Column();
    for (int k = 0; k < depth; k += 16) {
      uint32_t a[kRows / 16][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) LoadLeft(a[i], left, left_stride, Row() + 16 * i, k);
#pragma unroll
      for (int j = 0; j < kColumns; j += 16) {
        if (!kWhole && first + j >= end) break;
        uint32_t b[4];
        if constexpr (kAcross) {
          LoadRightTransposed(b, right, right_stride, first + j, k);
        } else {
          LoadRight(b, right, right_stride, first + j, k);
        }
#pragma unroll
        for (int i = 0; i < kRows / 16; ++i) {
          Mma(c[i][j / 8], a[i], b[0], b[1]);
          Mma(c[i][j / 8 + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  // Writes f(what stands there, this share's number) to the columns [begin, end) of a tile.
  template <class F>
  __device__ void Write(bf16* tile, int stride, int begin, int end, F&& f) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        const int column = begin + Column() + 8 * j;
        if (column >= end) continue;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = Row() + 16 * i + 8 * h + lane / 4;
          auto* at = reinterpret_cast<__nv_bfloat162*>(tile + row * stride + column + lane % 4 * 2);
          const float2 before = __bfloat1622float2(*at);
          *at = __floats2bfloat162_rn(f(before.x, c[i][j][2 * h]), f(before.y, c[i][j][2 * h + 1]));
        }
      }
    }
  }
};

// Calls f(numbers in memory, the first in shared memory, how far apart they stand there) for what
// this thread has of the matrix: kCount at a time, neighbours in memory. Of a turned one
// neighbouring threads have two sectors of a row and then the next row: their places in shared
// memory are neighbours too.
template <int kCount, class F>
__device__ void Each(const Place& p, bf16* tile, F&& f) {
  const int across = p.columns / kCount, total = p.rows * across;
  const int pair = p.turned() && across % 2 == 0 ? 2 : 1;
  for (int i = static_cast<int>(threadIdx.x); i < total; i += kThreads) {
    int row = i / across, column = i % across;
    if (p.turned()) {
      row = i / pair % p.rows;
      column = i / pair / p.rows * pair + i % pair;
    }
    column *= kCount;
    f(p.x + row * p.columns + column,
      tile + (p.turned() ? column * p.stride + row : row * p.stride + column),
      p.turned() ? p.stride : 1);
  }
}

// Into shared memory; the sum of its squares in all threads.
__device__ double Load(const Place& p, bf16* tile) {
  double sum = 0;
  const auto put = [&](bf16* at, bf16 number) {
    const double value = __bfloat162float(number);
    sum += value * value;
    *at = number;
  };
  if (p.vectors) {
    Each<kVector>(p, tile, [&](const bf16* from, bf16* at, int step) {
      const auto some = *reinterpret_cast<const Vec<bf16, kVector>*>(from);
#pragma unroll
      for (int j = 0; j < kVector; ++j) put(at + j * step, some.v[j]);
    });
  } else {
    Each<1>(p, tile, [&](const bf16* from, bf16* at, int) { put(at, *from); });
  }
  return BlockReduce(sum);
}

__device__ void Store(const Place& p, bf16* tile) {
  if (p.vectors) {
    Each<kVector>(p, tile, [&](bf16* to, const bf16* at, int step) {
      Vec<bf16, kVector> some;
#pragma unroll
      for (int j = 0; j < kVector; ++j) some.v[j] = at[j * step];
      *reinterpret_cast<Vec<bf16, kVector>*>(to) = some;
    });
  } else {
    Each<1>(p, tile, [&](bf16* to, const bf16* at, int) { *to = *at; });
  }
}

// Multiplies the numbers of the tile by a factor.
__device__ void Scale(bf16* tile, int count, float by) {
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(tile);
  for (int i = static_cast<int>(threadIdx.x); i < count / 2; i += kThreads) {
    const float2 pair = __bfloat1622float2(pairs[i]);
    pairs[i] = __floats2bfloat162_rn(pair.x * by, pair.y * by);
  }
}

// A block a matrix. Shared memory: X [kN, stride], then A, and B in its place, [kN, kN + 8].
template <int kN>
__global__ void __launch_bounds__(kThreads, 2) NewtonSchulzKernel(Steps steps, Place p) {
  extern __shared__ __align__(16) bf16 shared[];
  constexpr int kPolyStride = kN + kVector;
  bf16* x = shared;
  bf16* poly = shared + kN * p.stride;
  p.x += int64_t{blockIdx.x} * p.rows * p.columns;
  // What the matrix does not reach counts as 0 in sums over rows and columns.
  for (int i = static_cast<int>(threadIdx.x); i < kN * p.stride / kVector; i += kThreads)
    reinterpret_cast<uint4*>(x)[i] = uint4{};
  __syncthreads();
  const float inverse = static_cast<float>(1 / (sqrt(Load(p, x)) + steps.eps));
  Scale(x, kN * p.stride, inverse);
  const int m = (p.m + 15) / 16 * 16;
  for (int step = 0; step < steps.count; ++step) {
    Share<kN> share;
    __syncthreads();
    share.template Multiply<false, true>(x, p.stride, x, p.stride, m, 0, kN);
    share.Write(poly, kPolyStride, 0, kN, [](float, float gram) { return gram; });
    __syncthreads();
    share.template Multiply<false, true>(poly, kPolyStride, poly, kPolyStride, kN, 0, kN);
    __syncthreads();
    share.Write(poly, kPolyStride, 0, kN,
                [&](float gram, float square) { return steps.b * gram + steps.c * square; });
    __syncthreads();
    for (int begin = 0; begin < m; begin += kN) {
      if (begin + kN <= m) {
        share.template Multiply<true, true>(poly, kPolyStride, x, p.stride, kN, begin, m);
      } else {
        share.template Multiply<true, false>(poly, kPolyStride, x, p.stride, kN, begin, m);
      }
      __syncthreads();  // before the columns that others still read are written
      share.Write(x, p.stride, begin, m,
                  [&](float before, float sum) { return steps.a * before + sum; });
    }
  }
  __syncthreads();
  Store(p, x);
}

}  // namespace

void NewtonSchulzSmall(Stream& stream, const NewtonSchulzOptions& options, Tensor& x) {
  const auto rows = static_cast<int>(x.dim(1)), columns = static_cast<int>(x.dim(2));
  const int n = std::min(rows, columns), m = std::max(rows, columns);
  const Place place = {.x = Data<bf16>(x),
                       .rows = rows,
                       .columns = columns,
                       .m = m,
                       .stride = static_cast<int>(NewtonSchulzStride(m)),
                       .vectors = columns % kVector == 0 &&
                                  reinterpret_cast<uintptr_t>(x.raw()) % sizeof(uint4) == 0};
  const Steps steps = {static_cast<int>(options.steps), static_cast<float>(options.a),
                       static_cast<float>(options.b), static_cast<float>(options.c), options.eps};
  const auto kernel = n <= 64 ? NewtonSchulzKernel<64> : NewtonSchulzKernel<128>;
  Launch(stream, kernel, dim3(static_cast<unsigned>(x.dim(0))), kThreads,
         static_cast<size_t>(NewtonSchulzShared(rows, columns)), steps, place);
}

}  // namespace mneme::gpu
