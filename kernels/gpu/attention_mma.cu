// Attention in bf16 on tensor cores of any GPU since sm_80 (mma.sync, cp.async): what runs where
// nothing better is there.
//
// Forward and dq: a block of four warps owns 64 queries of one head, a warp 16 of them, and walks
// over the tiles of keys that they can see; probabilities go from one product into the next in
// registers. dk and dv: a block owns 64 keys, a warp 16, and walks over queries with the transposed
// scores. Backward thus makes seven products where five would do, and in exchange needs no sums
// across blocks: no atomics, no buffer of length², the same bits every time.
//
// Blocks of one head run side by side, those with most to do first, so that keys and values come
// from L2. Roofline, 27B shape (4 rows of 4,096, 32 heads of 128 + 64 / 128): 0.69 TFLOP forward,
// 1.79 backward (2.47 done); mma.sync reaches about 620 TFLOP/s of Hopper's 989; fragments of the
// right operand are read from shared memory for 16 rows at a time, which halves that. On an H100:
// 148 TFLOP/s forward, 123 backward.
#include "kernels/gpu/attention.h"
#include "kernels/gpu/device/mma.cuh"
#include "kernels/gpu/device/vec.cuh"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kOwn = 16 * kWarps;  // queries or keys of a block
constexpr float kLog2E = 1.4426950408889634f;

// Widths that a kernel is compiled for: those of the op are filled up with zeros.
template <int kWidth_, int kValue_>
struct Widths {
  static constexpr int kWidth = kWidth_;  // of queries and keys
  static constexpr int kValue = kValue_;
  static constexpr int kWidthStride = kWidth + 8;
  static constexpr int kValueStride = kValue + 8;
  static constexpr int kKeys = kWidth <= 192 ? 64 : 32;  // of a tile that forward and dq walk over
  static constexpr int kQueries = 32;                    // of a tile that dk and dv walk over
  // Where registers do not hold dk and dv side by side, they are made one after the other.
  static constexpr int kPasses = kWidth + kValue <= 320 ? 1 : 2;
};

// Rows [first, first + kRows) of a matrix into a tile; rows from `end` on and columns from `width`
// on become zeros. `vector`: pieces, strides and addresses are multiples of 16 bytes.
template <int kRows, int kColumns>
__device__ void LoadTile(bf16* tile, const AttentionRows<bf16>& rows, int64_t first, int64_t end,
                         int width, bool vector) {
  constexpr int kStride = kColumns + 8;
  constexpr int kPieces = kColumns / 8;
  if (vector) {
    for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
      const int c = i % kPieces * 8;
      const int64_t r = first + i / kPieces;
      const bool valid = r < end && c < width;
      CopyAsync16(tile + i / kPieces * kStride + c, valid ? rows.At(r, c) : rows.a, valid);
    }
    return;
  }
  for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    const int c = i % kColumns;
    const int64_t r = first + i / kColumns;
    tile[i / kColumns * kStride + c] =
        r < end && c < width ? *rows.At(r, c) : __float2bfloat16_rn(0.0f);
  }
}

// The 16 × N result of a warp, columns from `column` on, to rows of `out`; rows from `end` on and
// columns from `width` on are left out.
template <int N, class Out>
__device__ void StoreResult(const float (&c)[N / 8][4], int64_t row, int64_t end, int width,
                            bool vector, Out out) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + lane / 4 + 8 * half;
    if (r >= end) continue;
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      const int column = 8 * n + lane % 4 * 2;
      out(r, column, c[n][2 * half], c[n][2 * half + 1], width, vector);
    }
  }
}

// Two neighbours of a row.
__device__ void StorePair(bf16* row, int column, float x, float y, int width, bool vector) {
  if (vector) {
    if (column < width) *reinterpret_cast<uint32_t*>(row + column) = PackBf16(x, y);
    return;
  }
  if (column < width) row[column] = FromFloat<bf16>(x);
  if (column + 1 < width) row[column + 1] = FromFloat<bf16>(y);
}

template <int N>
__device__ void Clear(float (&c)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j < 4; ++j) c[i][j] = 0;
  }
}

// Over the four threads that share a row of a result.
template <class Op>
__device__ float QuadReduce(float x, Op op) {
  x = op(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return op(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Of the two queries that a thread has results of (rows lane / 4 and that + 8 of its warp's).
struct Seen {
  int64_t query[2];
  int64_t start[2];
  int64_t all_from;  // keys [all_from, all_to] are seen by every query of the block
  int64_t all_to;

  __device__ Seen(const int32_t* starts, int64_t q0, int64_t length) {
    const int64_t row = q0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    for (int half = 0; half < 2; ++half) {
      query[half] = row + 8 * half;
      start[half] = query[half] < length ? starts[query[half]] : length;
    }
    const int64_t last = min(q0 + kOwn, length) - 1;
    all_from = starts[last];
    all_to = q0;
  }
  __device__ bool Sees(int half, int64_t key) const {
    return key >= start[half] && key <= query[half];
  }
};

// One tile's step of the online softmax: scores become probabilities relative to the new maximum.
template <int N, int V>
__device__ void Softmax(float (&s)[N][4], const Seen& seen, int64_t k0, bool masked, float scale,
                        float (&most)[2], float (&sum)[2], float (&acc)[V][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest = most[half];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& x = s[n][2 * half + j];
        if (masked && !seen.Sees(half, k0 + 8 * n + lane % 4 * 2 + j)) x = -INFINITY;
        highest = fmaxf(highest, x);
      }
    }
    highest = QuadReduce(highest, [](float a, float b) { return fmaxf(a, b); });
    const float base = highest == -INFINITY ? 0 : highest * scale;
    const float shrink = exp2f(most[half] * scale - base);
    float added = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& x = s[n][2 * half + j];
        x = exp2f(x * scale - base);
        added += x;
      }
    }
    sum[half] = sum[half] * shrink + added;
    most[half] = highest;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      acc[v][2 * half] *= shrink;
      acc[v][2 * half + 1] *= shrink;
    }
  }
}

template <class W>
__global__ void __launch_bounds__(kThreads) MmaForward(AttentionArgs<bf16> n, bool vector) {
  constexpr int kKeys = W::kKeys;
  extern __shared__ __align__(16) bf16 shared[];
  bf16* q = shared;
  bf16* k = q + kOwn * W::kWidthStride;
  bf16* v = k + kKeys * W::kWidthStride;
  const AttentionHead<bf16> head(n, blockIdx.y);
  const int64_t q0 = (gridDim.x - 1 - blockIdx.x) * int64_t{kOwn};
  const int row = threadIdx.x / 32 * 16;
  const float scale = n.scale * kLog2E;
  const Seen seen(head.start, q0, n.length);
  const int64_t end = min(q0 + kOwn, n.length);
  int64_t k0 = head.start[q0] / kKeys * kKeys;
  LoadTile<kOwn, W::kWidth>(q, head.q, q0, n.length, n.width(), vector);
  LoadTile<kKeys, W::kWidth>(k, head.k, k0, n.length, n.width(), vector);
  CopyAsyncCommit();
  float most[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  float acc[W::kValue / 8][4];
  Clear(acc);
  for (; k0 < end; k0 += kKeys) {
    LoadTile<kKeys, W::kValue>(v, head.v, k0, n.length, n.value, vector);
    CopyAsyncCommit();
    CopyAsyncWait<1>();
    __syncthreads();
    float s[kKeys / 8][4];
    Clear(s);
    ProductRows<kKeys, W::kWidth>(s, q, W::kWidthStride, row, k, W::kWidthStride);
    __syncthreads();
    if (k0 + kKeys < end) {
      LoadTile<kKeys, W::kWidth>(k, head.k, k0 + kKeys, n.length, n.width(), vector);
    }
    CopyAsyncCommit();
    const bool masked = k0 < seen.all_from || k0 + kKeys - 1 > seen.all_to;
    Softmax(s, seen, k0, masked, scale, most, sum, acc);
    CopyAsyncWait<1>();
    __syncthreads();
    ProductOfResult<W::kValue, kKeys>(acc, s, v, W::kValueStride);
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] = QuadReduce(sum[half], [](float a, float b) { return a + b; });
    if (threadIdx.x % 4 == 0 && seen.query[half] < n.length) {
      n.lse_out[(head.first + seen.query[half]) * n.heads + head.head] =
          most[half] * n.scale + logf(sum[half]);
    }
#pragma unroll
    for (auto& c : acc) {
      c[2 * half] /= sum[half];
      c[2 * half + 1] /= sum[half];
    }
  }
  bf16* out = n.out + (head.first * n.heads + head.head) * n.value;
  StoreResult<W::kValue>(acc, q0 + row, n.length, n.value, vector,
                         [&](int64_t r, int c, float x, float y, int width, bool pairs) {
                           StorePair(out + r * n.heads * n.value, c, x, y, width, pairs);
                         });
}

template <class W>
__global__ void __launch_bounds__(kThreads) MmaQueryGrad(AttentionArgs<bf16> n, bool vector) {
  constexpr int kKeys = W::kKeys;
  extern __shared__ __align__(16) bf16 shared[];
  bf16* q = shared;
  bf16* dout = q + kOwn * W::kWidthStride;
  bf16* k = dout + kOwn * W::kValueStride;
  bf16* v = k + kKeys * W::kWidthStride;
  const AttentionHead<bf16> head(n, blockIdx.y);
  const int64_t q0 = (gridDim.x - 1 - blockIdx.x) * int64_t{kOwn};
  const int row = threadIdx.x / 32 * 16;
  const float scale = n.scale * kLog2E;
  const Seen seen(head.start, q0, n.length);
  const int64_t end = min(q0 + kOwn, n.length);
  float lse[2], delta[2];
  for (int half = 0; half < 2; ++half) {
    const bool inside = seen.query[half] < n.length;
    lse[half] = inside ? head.lse[seen.query[half] * n.heads] * kLog2E : 0;
    delta[half] = inside ? head.delta[seen.query[half] * n.heads] : 0;
  }
  LoadTile<kOwn, W::kWidth>(q, head.q, q0, n.length, n.width(), vector);
  LoadTile<kOwn, W::kValue>(dout, head.dout, q0, n.length, n.value, vector);
  float acc[W::kWidth / 8][4];
  Clear(acc);
  for (int64_t k0 = head.start[q0] / kKeys * kKeys; k0 < end; k0 += kKeys) {
    LoadTile<kKeys, W::kWidth>(k, head.k, k0, n.length, n.width(), vector);
    CopyAsyncCommit();
    LoadTile<kKeys, W::kValue>(v, head.v, k0, n.length, n.value, vector);
    CopyAsyncCommit();
    CopyAsyncWait<1>();
    __syncthreads();
    float s[kKeys / 8][4], ds[kKeys / 8][4];
    Clear(s);
    ProductRows<kKeys, W::kWidth>(s, q, W::kWidthStride, row, k, W::kWidthStride);
    CopyAsyncWait<0>();
    __syncthreads();
    Clear(ds);
    ProductRows<kKeys, W::kValue>(ds, dout, W::kValueStride, row, v, W::kValueStride);
#pragma unroll
    for (int m = 0; m < kKeys / 8; ++m) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t key = k0 + 8 * m + threadIdx.x % 4 * 2 + j % 2;
        const float p = exp2f(s[m][j] * scale - lse[j / 2]);
        ds[m][j] = seen.Sees(j / 2, key) ? p * (ds[m][j] - delta[j / 2]) * n.scale : 0;
      }
    }
    ProductOfResult<W::kWidth, kKeys>(acc, ds, k, W::kWidthStride);
    __syncthreads();
  }
  bf16* dq = n.dq + (head.first * n.heads + head.head) * n.width();
  StoreResult<W::kWidth>(acc, q0 + row, n.length, n.width(), vector,
                         [&](int64_t r, int c, float x, float y, int width, bool pairs) {
                           StorePair(dq + r * n.heads * n.width(), c, x, y, width, pairs);
                         });
}

// What dk and dv need of a tile of queries beside the rows themselves.
struct QueryNotes {
  float lse[32];
  float delta[32];
  int64_t start[32];
};

template <int kQueries>
__device__ void LoadNotes(QueryNotes& notes, const AttentionHead<bf16>& head, int64_t heads,
                          int64_t q0, int64_t length) {
  static_assert(kQueries <= 32);
  const int i = threadIdx.x;
  if (i >= kQueries) return;
  const bool inside = q0 + i < length;
  notes.lse[i] = inside ? head.lse[(q0 + i) * heads] * kLog2E : 0;
  notes.delta[i] = inside ? head.delta[(q0 + i) * heads] : 0;
  notes.start[i] = inside ? head.start[q0 + i] : length;
}

// Results of dk: the head's own columns to dkv, the shared ones to the head's share of dk_pe.
template <int N>
__device__ void StoreKeyGrad(const AttentionArgs<bf16>& n, const AttentionHead<bf16>& head,
                             const float (&dk)[N / 8][4], int64_t row, bool vector) {
  const int64_t first = head.first * n.heads + head.head;
  StoreResult<N>(dk, row, n.length, n.width(), vector,
                 [&](int64_t r, int c, float x, float y, int width, bool pairs) {
                   const int64_t at = first + r * n.heads;
                   StorePair(n.dkv + at * (n.nope + n.value), c, x, y, n.nope, pairs);
                   float* share = n.dk_pe_head + at * n.rope - n.nope;
                   if (c >= n.nope && c < width) share[c] = x;
                   if (c + 1 >= n.nope && c + 1 < width) share[c + 1] = y;
                 });
}

template <class W, bool kOfKey, bool kOfValue>
__device__ void KeyGrad(const AttentionArgs<bf16>& n, bool vector) {
  constexpr int kQueries = W::kQueries;
  extern __shared__ __align__(16) bf16 shared[];
  __shared__ QueryNotes notes;
  bf16* k = shared;
  bf16* v = k + kOwn * W::kWidthStride;
  bf16* q = v + kOwn * W::kValueStride;
  bf16* dout = q + kQueries * W::kWidthStride;
  const AttentionHead<bf16> head(n, blockIdx.y);
  const int64_t k0 = blockIdx.x * int64_t{kOwn};
  const int row = threadIdx.x / 32 * 16;
  const float scale = n.scale * kLog2E;
  LoadTile<kOwn, W::kWidth>(k, head.k, k0, n.length, n.width(), vector);
  LoadTile<kOwn, W::kValue>(v, head.v, k0, n.length, n.value, vector);
  float dk[kOfKey ? W::kWidth / 8 : 1][4], dv[kOfValue ? W::kValue / 8 : 1][4];
  Clear(dk);
  Clear(dv);
  for (int64_t q0 = k0; q0 < n.length && head.start[q0] < k0 + kOwn; q0 += kQueries) {
    LoadNotes<kQueries>(notes, head, n.heads, q0, n.length);
    LoadTile<kQueries, W::kWidth>(q, head.q, q0, n.length, n.width(), vector);
    CopyAsyncCommit();
    LoadTile<kQueries, W::kValue>(dout, head.dout, q0, n.length, n.value, vector);
    CopyAsyncCommit();
    CopyAsyncWait<1>();
    __syncthreads();
    float p[kQueries / 8][4];
    Clear(p);
    ProductRows<kQueries, W::kWidth>(p, k, W::kWidthStride, row, q, W::kWidthStride);
#pragma unroll
    for (int m = 0; m < kQueries / 8; ++m) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 8 * m + threadIdx.x % 4 * 2 + j % 2;
        const int64_t key = k0 + row + threadIdx.x % 32 / 4 + 8 * (j / 2);
        const bool seen = key >= notes.start[i] && key <= q0 + i;
        p[m][j] = seen ? exp2f(p[m][j] * scale - notes.lse[i]) : 0;
      }
    }
    CopyAsyncWait<0>();
    __syncthreads();
    if constexpr (kOfValue) {
      ProductOfResult<W::kValue, kQueries>(dv, p, dout, W::kValueStride);
    }
    if constexpr (kOfKey) {
      float ds[kQueries / 8][4];
      Clear(ds);
      ProductRows<kQueries, W::kValue>(ds, v, W::kValueStride, row, dout, W::kValueStride);
#pragma unroll
      for (int m = 0; m < kQueries / 8; ++m) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int i = 8 * m + threadIdx.x % 4 * 2 + j % 2;
          // A pair that is not seen stays 0 whatever its products are.
          ds[m][j] = p[m][j] == 0 ? 0 : p[m][j] * (ds[m][j] - notes.delta[i]) * n.scale;
        }
      }
      ProductOfResult<W::kWidth, kQueries>(dk, ds, q, W::kWidthStride);
    }
    __syncthreads();
  }
  if constexpr (kOfValue) {
    bf16* out = n.dkv + (head.first * n.heads + head.head) * (n.nope + n.value) + n.nope;
    StoreResult<W::kValue>(dv, k0 + row, n.length, n.value, vector,
                           [&](int64_t r, int c, float x, float y, int width, bool pairs) {
                             StorePair(out + r * n.heads * (n.nope + n.value), c, x, y, width,
                                       pairs);
                           });
  }
  if constexpr (kOfKey) StoreKeyGrad<W::kWidth>(n, head, dk, k0 + row, vector);
}

template <class W>
__global__ void __launch_bounds__(kThreads) MmaKeyGrad(AttentionArgs<bf16> n, bool vector) {
  if constexpr (W::kPasses == 1) {
    KeyGrad<W, true, true>(n, vector);
  } else {
    if (blockIdx.z == 0) {
      KeyGrad<W, true, false>(n, vector);
    } else {
      KeyGrad<W, false, true>(n, vector);
    }
  }
}

// Calls f(Widths{}) with the narrowest that holds the op's.
template <class F>
void DispatchWidths(int width, int value, F&& f) {
  if (width <= 64 && value <= 64) return f(Widths<64, 64>{});
  if (width <= 96 && value <= 64) return f(Widths<96, 64>{});
  if (width <= 192 && value <= 128) return f(Widths<192, 128>{});
  f(Widths<256, 256>{});
}

bool Vectors(const AttentionArgs<bf16>& n) {
  return n.nope % 8 == 0 && n.rope % 8 == 0 && n.value % 8 == 0 && OnSixteenBytes(n);
}

dim3 Grid(const AttentionArgs<bf16>& n, int passes) {
  return dim3(static_cast<unsigned>(CeilDiv(n.length, kOwn)),
              static_cast<unsigned>(n.rows * n.heads), static_cast<unsigned>(passes));
}

}  // namespace

bool AttentionMmaServes(const AttentionShape& n) {
  return n.nope + n.rope <= 256 && n.value <= 256;
}

void AttentionMma(Stream& stream, const AttentionArgs<bf16>& n) {
  DispatchWidths(n.width(), n.value, [&](auto widths) {
    using W = decltype(widths);
    const size_t shared =
        sizeof(bf16) * ((kOwn + W::kKeys) * W::kWidthStride + W::kKeys * W::kValueStride);
    Launch(stream, MmaForward<W>, Grid(n, 1), kThreads, shared, n, Vectors(n));
  });
}

void AttentionGradMma(Stream& stream, const AttentionArgs<bf16>& n) {
  DispatchWidths(n.width(), n.value, [&](auto widths) {
    using W = decltype(widths);
    const bool vector = Vectors(n);
    constexpr int kStrides = W::kWidthStride + W::kValueStride;
    Launch(stream, MmaKeyGrad<W>, Grid(n, W::kPasses), kThreads,
           sizeof(bf16) * (kOwn + W::kQueries) * kStrides, n, vector);
    Launch(stream, MmaQueryGrad<W>, Grid(n, 1), kThreads,
           sizeof(bf16) * (kOwn + W::kKeys) * kStrides, n, vector);
  });
}

}  // namespace mneme::gpu
