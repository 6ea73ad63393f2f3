// Attention on a GPU: the choice of a version, and the plain one, which serves every width and the
// checking mode (fp32 products, no tensor cores).
//
// In bf16 the first that serves runs: Hopper's own (attention_sm90.cu, attention_grad_sm90.cu) for
// the widths of the paper and of the sweeps; cuDNN (attention_cudnn.cu) for others up to 256, where
// the host knows that there are no documents; mma.sync (attention_mma.cu) up to 256; plain.
//
// The plain version: a block owns 64 queries (forward, dq) or 64 keys (dk, dv) of one head and up
// to kChunk columns of the result; it walks over the tiles of the other side that its own can see,
// scores 64 × 64 pairs at a time and keeps 4 × 4 of them a thread. Nothing of length² is ever
// stored, every sum has one owner and a fixed order: two runs give the same bits. What all heads
// share (dk_pe) is summed from the heads' shares afterwards, head by head.
//
// Roofline, 27B shape (4 rows of 4,096, 32 heads of 128 + 64 / 128): 0.69 TFLOP forward, 1.79
// backward (counting what is visible; this version repeats the scores for every chunk of columns);
// bytes are negligible. fp32 units: 67 TFLOP/s on an H100, so 10 ms and 27 ms at best.
#include <cfloat>

#include "kernels/gpu/attention.h"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"

namespace mneme::gpu {
namespace {

constexpr int kTile = 64;           // queries, and keys, of a tile
constexpr int kThreads = 256;       // 16 × 16, each 4 × 4 pairs
constexpr int kDepth = 32;          // columns of a product's inputs in shared memory at a time
constexpr int kPad = kTile + 4;     // stride of tiles that are read by column
constexpr int kWide = 2;            // kChunk / 64
constexpr int kChunk = 64 * kWide;  // columns of a result that one block makes

struct PlainShared {
  float pairs[kTile][kPad];  // [inner][row]: left side of a product over the inner index
  union {
    struct {
      float x[kDepth][kPad];
      float y[kDepth][kPad];
    };
    float rows[kDepth][kChunk];
  };
};

// acc [i][j] = Σ_c x[x0 + 4 ty + i][c] · y[y0 + 4 tx + j][c]; rows from `end` on count as zeros.
template <class T>
__device__ void ScorePairs(PlainShared& s, const AttentionRows<T>& x, int64_t x0,
                           const AttentionRows<T>& y, int64_t y0, int64_t end, int width,
                           float (&acc)[4][4]) {
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  for (auto& row : acc) {
    for (float& value : row) value = 0;
  }
  for (int c0 = 0; c0 < width; c0 += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
      const int r = i / kDepth;
      const int c = c0 + i % kDepth;
      s.x[i % kDepth][r] = x0 + r < end && c < width ? ToFloat(*x.At(x0 + r, c)) : 0.0f;
      s.y[i % kDepth][r] = y0 + r < end && c < width ? ToFloat(*y.At(y0 + r, c)) : 0.0f;
    }
    __syncthreads();
    for (int c = 0; c < kDepth; ++c) {
      float a[4], b[4];
      LoadFloats(&s.x[c][4 * ty], a);
      LoadFloats(&s.y[c][4 * tx], b);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[i][j] += a[i] * b[j];
      }
    }
  }
}

// acc [i][j] += Σ_r pairs[r][4 ty + i] · y[y0 + r][c0 + column j]; column j of thread tx is
// 64 (j / 4) + 4 tx + j % 4. All threads have written `pairs` before.
template <class T>
__device__ void AddProduct(PlainShared& s, const AttentionRows<T>& y, int64_t y0, int64_t end,
                           int c0, int width, float (&acc)[4][4 * kWide]) {
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  for (int r0 = 0; r0 < kTile; r0 += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kDepth * kChunk; i += kThreads) {
      const int64_t r = y0 + r0 + i / kChunk;
      const int c = c0 + i % kChunk;
      s.rows[i / kChunk][i % kChunk] = r < end && c < width ? ToFloat(*y.At(r, c)) : 0.0f;
    }
    __syncthreads();
    for (int r = 0; r < kDepth; ++r) {
      float a[4];
      LoadFloats(&s.pairs[r0 + r][4 * ty], a);
#pragma unroll
      for (int w = 0; w < kWide; ++w) {
        float b[4];
        LoadFloats(&s.rows[r][64 * w + 4 * tx], b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) acc[i][4 * w + j] += a[i] * b[j];
        }
      }
    }
  }
  __syncthreads();
}

// Over the 16 threads that share four rows.
template <class Op>
__device__ float RowReduce(float x, Op op) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// First key that a thread's four queries may see; a query outside the sample sees none.
template <class T>
__device__ void LoadStarts(const AttentionHead<T>& head, int64_t query, int64_t length,
                           int64_t (&start)[4]) {
  for (int i = 0; i < 4; ++i) {
    start[i] = query + i < length ? head.start[query + i] : length;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) PlainForward(AttentionArgs<T> n) {
  __shared__ PlainShared s;
  const AttentionHead<T> head(n, blockIdx.y);
  const int64_t q0 = (gridDim.x - 1 - blockIdx.x) * int64_t{kTile};
  const int c0 = blockIdx.z * kChunk;
  const int tx = threadIdx.x % 16;
  const int64_t query = q0 + threadIdx.x / 16 * 4;
  int64_t start[4];
  LoadStarts(head, query, n.length, start);
  float most[4], sum[4], acc[4][4 * kWide];
  for (int i = 0; i < 4; ++i) {
    most[i] = -INFINITY;
    sum[i] = 0;
    for (float& value : acc[i]) value = 0;
  }
  const int64_t last = min(q0 + kTile, n.length) - 1;
  for (int64_t k0 = head.start[q0] / kTile * kTile; k0 <= last; k0 += kTile) {
    float p[4][4];
    ScorePairs(s, head.q, q0, head.k, k0, n.length, n.width(), p);
    for (int i = 0; i < 4; ++i) {
      float highest = most[i];
      for (int j = 0; j < 4; ++j) {
        const int64_t key = k0 + 4 * tx + j;
        p[i][j] = key >= start[i] && key <= query + i ? p[i][j] * n.scale : -INFINITY;
        highest = fmaxf(highest, p[i][j]);
      }
      highest = RowReduce(highest, Larger{});
      const float base = highest == -INFINITY ? 0 : highest;
      const float shrink = expf(most[i] - base);
      float added = 0;
      for (int j = 0; j < 4; ++j) {
        p[i][j] = expf(p[i][j] - base);
        added += p[i][j];
        s.pairs[4 * tx + j][threadIdx.x / 16 * 4 + i] = p[i][j];
      }
      sum[i] = sum[i] * shrink + RowReduce(added, Plus{});
      most[i] = highest;
      for (float& value : acc[i]) value *= shrink;
    }
    AddProduct(s, head.v, k0, n.length, c0, n.value, acc);
  }
  for (int i = 0; i < 4; ++i) {
    if (query + i >= n.length) break;
    const int64_t at = (head.first + query + i) * n.heads + head.head;
    if (c0 == 0 && tx == 0) n.lse_out[at] = most[i] + logf(sum[i]);
    for (int j = 0; j < 4 * kWide; ++j) {
      const int c = c0 + j / 4 * 64 + 4 * tx + j % 4;
      if (c < n.value) n.out[at * n.value + c] = FromFloat<T>(acc[i][j] / sum[i]);
    }
  }
}

// Probabilities, and their gradients times the scale where `graded`, of a tile of queries and keys.
template <class T>
__device__ void PairGradients(PlainShared& s, const AttentionArgs<T>& n,
                              const AttentionHead<T>& head, int64_t q0, int64_t k0, bool graded,
                              float (&p)[4][4]) {
  const int tx = threadIdx.x % 16;
  const int64_t query = q0 + threadIdx.x / 16 * 4;
  int64_t start[4];
  LoadStarts(head, query, n.length, start);
  ScorePairs(s, head.q, q0, head.k, k0, n.length, n.width(), p);
  float lse[4], delta[4];
  for (int i = 0; i < 4; ++i) {
    const bool inside = query + i < n.length;
    lse[i] = inside ? head.lse[(query + i) * n.heads] : 0;
    delta[i] = inside ? head.delta[(query + i) * n.heads] : 0;
    for (int j = 0; j < 4; ++j) {
      const int64_t key = k0 + 4 * tx + j;
      p[i][j] = key >= start[i] && key <= query + i ? expf(p[i][j] * n.scale - lse[i]) : 0;
    }
  }
  if (!graded) return;
  float dp[4][4];
  ScorePairs(s, head.dout, q0, head.v, k0, n.length, n.value, dp);
  for (int i = 0; i < 4; ++i) {
    // A pair that is not seen stays 0 whatever its products are.
    for (int j = 0; j < 4; ++j) {
      const int64_t key = k0 + 4 * tx + j;
      const bool seen = key >= start[i] && key <= query + i;
      p[i][j] = seen ? p[i][j] * (dp[i][j] - delta[i]) * n.scale : 0;
    }
  }
}

// Chunks of dk first, then chunks of dv.
template <class T>
__global__ void __launch_bounds__(kThreads) PlainKeyGrad(AttentionArgs<T> n) {
  __shared__ PlainShared s;
  const AttentionHead<T> head(n, blockIdx.y);
  const int64_t k0 = blockIdx.x * int64_t{kTile};
  const int key_chunks = (n.width() + kChunk - 1) / kChunk;
  const bool of_key = static_cast<int>(blockIdx.z) < key_chunks;
  const int c0 = (blockIdx.z - (of_key ? 0 : key_chunks)) * kChunk;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  float acc[4][4 * kWide];
  for (auto& row : acc) {
    for (float& value : row) value = 0;
  }
  for (int64_t q0 = k0; q0 < n.length && head.start[q0] < k0 + kTile; q0 += kTile) {
    float p[4][4];
    PairGradients(s, n, head, q0, k0, of_key, p);
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) s.pairs[4 * ty + i][4 * tx + j] = p[i][j];
    }
    AddProduct(s, of_key ? head.q : head.dout, q0, n.length, c0, of_key ? n.width() : n.value, acc);
  }
  for (int i = 0; i < 4; ++i) {
    const int64_t key = k0 + 4 * ty + i;
    if (key >= n.length) break;
    const int64_t at = (head.first + key) * n.heads + head.head;
    T* dkv = n.dkv + at * (n.nope + n.value);
    for (int j = 0; j < 4 * kWide; ++j) {
      const int c = c0 + j / 4 * 64 + 4 * tx + j % 4;
      if (!of_key) {
        if (c < n.value) dkv[n.nope + c] = FromFloat<T>(acc[i][j]);
      } else if (c < n.nope) {
        dkv[c] = FromFloat<T>(acc[i][j]);
      } else if (c < n.width()) {
        n.dk_pe_head[at * n.rope + c - n.nope] = acc[i][j];
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) PlainQueryGrad(AttentionArgs<T> n) {
  __shared__ PlainShared s;
  const AttentionHead<T> head(n, blockIdx.y);
  const int64_t q0 = (gridDim.x - 1 - blockIdx.x) * int64_t{kTile};
  const int c0 = blockIdx.z * kChunk;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  float acc[4][4 * kWide];
  for (auto& row : acc) {
    for (float& value : row) value = 0;
  }
  const int64_t last = min(q0 + kTile, n.length) - 1;
  for (int64_t k0 = head.start[q0] / kTile * kTile; k0 <= last; k0 += kTile) {
    float ds[4][4];
    PairGradients(s, n, head, q0, k0, true, ds);
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) s.pairs[4 * tx + j][4 * ty + i] = ds[i][j];
    }
    AddProduct(s, head.k, k0, n.length, c0, n.width(), acc);
  }
  for (int i = 0; i < 4; ++i) {
    const int64_t query = q0 + 4 * ty + i;
    if (query >= n.length) break;
    T* dq = n.dq + ((head.first + query) * n.heads + head.head) * n.width();
    for (int j = 0; j < 4 * kWide; ++j) {
      const int c = c0 + j / 4 * 64 + 4 * tx + j % 4;
      if (c < n.width()) dq[c] = FromFloat<T>(acc[i][j]);
    }
  }
}

// delta [T · H] = Σ dout · out. A warp a row.
template <class T>
__global__ void OutputDots(const T* dout, const T* out, int64_t rows, int width, float* delta) {
  const int64_t row = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / kWarp;
  if (row >= rows) return;
  float sum = 0;
  for (int c = threadIdx.x % kWarp; c < width; c += kWarp) {
    sum += ToFloat(dout[row * width + c]) * ToFloat(out[row * width + c]);
  }
  sum = WarpReduce(sum);
  if (threadIdx.x % kWarp == 0) delta[row] = sum;
}

// dk_pe [T, rope] = Σ over heads of their shares, in order. A thread N columns of a token.
template <class T, int N>
__global__ void SumHeads(const float* shares, int64_t heads, int rope, int64_t pieces, T* dk_pe) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= pieces) return;
  const int64_t at = i * N;
  const float* share = shares + at / rope * heads * rope + at % rope;
  float sum[N] = {};
#pragma unroll 8
  for (int64_t h = 0; h < heads; ++h) {
    float x[N];
    LoadFloats(share + h * rope, x);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += x[j];
  }
  StoreFloats(dk_pe + at, sum);
}

template <class T>
dim3 PlainGrid(const AttentionArgs<T>& n, int64_t chunks) {
  return dim3(static_cast<unsigned>(CeilDiv(n.length, kTile)),
              static_cast<unsigned>(n.rows * n.heads), static_cast<unsigned>(chunks));
}

template <class T>
AttentionArgs<T> Args(const AttentionShape& n, double scale, const Tensor& q, const Tensor& kv,
                      const Tensor& k_pe, const Tensor& doc_start) {
  const int64_t tokens = n.rows * n.length;
  CHECK_EQ(q.elements(), tokens * n.heads * (n.nope + n.rope));
  CHECK_EQ(kv.elements(), tokens * n.heads * (n.nope + n.value));
  CHECK_EQ(k_pe.elements(), tokens * n.rope);
  CHECK_EQ(doc_start.elements(), tokens);
  CHECK_LE(n.rows * n.heads, int64_t{65535});
  CHECK_GT(scale, 0.0);
  AttentionArgs<T> args = {};
  args.rows = n.rows;
  args.length = n.length;
  args.heads = n.heads;
  args.nope = static_cast<int>(n.nope);
  args.rope = static_cast<int>(n.rope);
  args.value = static_cast<int>(n.value);
  args.scale = static_cast<float>(scale);
  args.q = Data<T>(q);
  args.kv = Data<T>(kv);
  args.k_pe = Data<T>(k_pe);
  args.start = Data<int32_t>(doc_start);
  return args;
}

void Forward(Stream& stream, const AttentionShape&, const AttentionArgs<float>& args) {
  AttentionPlain(stream, args);
}

void Forward(Stream& stream, const AttentionShape& n, const AttentionArgs<bf16>& args) {
  if (AttentionHopperServes(stream, args)) return AttentionHopper(stream, args, n.documents);
  if (!n.documents && AttentionCudnnServes(stream, args, false))
    return AttentionCudnn(stream, args);
  if (AttentionMmaServes(n)) return AttentionMma(stream, args);
  AttentionPlain(stream, args);
}

// delta [T · H] = Σ dout · out, for versions that want it so.
template <class T>
void Deltas(Stream& stream, AttentionArgs<T>& args, Tensor& delta) {
  const int64_t pairs = args.tokens() * args.heads;
  delta = Tensor::Empty(stream, DType::kF32, {pairs}, MemoryTag::kWorkspace);
  args.delta = Data<float>(delta);
  Launch(stream, OutputDots<T>, dim3(static_cast<unsigned>(CeilDiv(pairs * kWarp, kThreads))),
         kThreads, 0, args.dout, args.saved_out, pairs, args.value, args.delta);
}

void OwnBackward(Stream& stream, const AttentionShape&, AttentionArgs<float> args) {
  Tensor delta;
  Deltas(stream, args, delta);
  AttentionGradPlain(stream, args);
}

void OwnBackward(Stream& stream, const AttentionShape& n, AttentionArgs<bf16> args) {
  if (AttentionHopperServes(stream, args)) return AttentionGradHopper(stream, args, n.documents);
  Tensor delta;
  Deltas(stream, args, delta);
  if (AttentionMmaServes(n)) return AttentionGradMma(stream, args);
  AttentionGradPlain(stream, args);
}

// Our own kernels, then the sum over heads of what they share.
template <class T>
void Backward(Stream& stream, const AttentionShape& n, AttentionArgs<T> args, T* dk_pe) {
  const int64_t shared = args.tokens() * n.rope;
  Tensor shares =
      Tensor::Empty(stream, DType::kF32, {args.tokens(), n.heads, n.rope}, MemoryTag::kWorkspace);
  args.dk_pe_head = Data<float>(shares);
  OwnBackward(stream, n, args);
  const auto sum = [&](auto kernel, int columns) {
    const int64_t pieces = shared / columns;
    Launch(stream, kernel, dim3(static_cast<unsigned>(CeilDiv(pieces, kThreads))), kThreads, 0,
           args.dk_pe_head, args.heads, args.rope, pieces, dk_pe);
  };
  if (n.rope % 4 == 0 && reinterpret_cast<uintptr_t>(dk_pe) % 16 == 0) {
    sum(SumHeads<T, 4>, 4);
  } else {
    sum(SumHeads<T, 1>, 1);
  }
}

bool CudnnGrad(Stream&, const AttentionShape&, const AttentionArgs<float>&, float*) {
  return false;
}

bool CudnnGrad(Stream& stream, const AttentionShape& n, const AttentionArgs<bf16>& args,
               bf16* dk_pe) {
  if (n.documents || AttentionHopperServes(stream, args)) return false;
  if (!AttentionCudnnServes(stream, args, true)) return false;
  AttentionGradCudnn(stream, args, dk_pe);
  return true;
}

}  // namespace

template <class T>
void AttentionPlain(Stream& stream, const AttentionArgs<T>& n) {
  Launch(stream, PlainForward<T>, PlainGrid(n, CeilDiv(n.value, kChunk)), kThreads, 0, n);
}

template <class T>
void AttentionGradPlain(Stream& stream, const AttentionArgs<T>& n) {
  const int64_t key_chunks = CeilDiv(n.width(), kChunk);
  Launch(stream, PlainKeyGrad<T>, PlainGrid(n, key_chunks + CeilDiv(n.value, kChunk)), kThreads, 0,
         n);
  Launch(stream, PlainQueryGrad<T>, PlainGrid(n, key_chunks), kThreads, 0, n);
}

void Attention(Stream& stream, const AttentionShape& n, double scale, const Tensor& q,
               const Tensor& kv, const Tensor& k_pe, const Tensor& doc_start, Tensor& out,
               Tensor& lse) {
  CHECK_EQ(lse.elements(), n.rows * n.length * n.heads);
  DispatchActivation(q.dtype(), [&](auto real) {
    using T = decltype(real);
    AttentionArgs<T> args = Args<T>(n, scale, q, kv, k_pe, doc_start);
    args.out = Data<T>(out);
    args.lse_out = Data<float>(lse);
    if (args.tokens() * args.heads > 0) Forward(stream, n, args);
  });
}

void AttentionGrad(Stream& stream, const AttentionShape& n, double scale, const Tensor& dout,
                   const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& doc_start,
                   const Tensor& out, const Tensor& lse, Tensor& dq, Tensor& dkv, Tensor& dk_pe) {
  CHECK_EQ(dq.elements(), q.elements());
  CHECK_EQ(dkv.elements(), kv.elements());
  CHECK_EQ(dk_pe.elements(), k_pe.elements());
  if (lse.elements() == 0) return;
  DispatchActivation(q.dtype(), [&](auto real) {
    using T = decltype(real);
    AttentionArgs<T> args = Args<T>(n, scale, q, kv, k_pe, doc_start);
    args.saved_out = Data<T>(out);
    args.lse = Data<float>(lse);
    args.dout = Data<T>(dout);
    args.dq = Data<T>(dq);
    args.dkv = Data<T>(dkv);
    if (CudnnGrad(stream, n, args, Data<T>(dk_pe))) return;
    Backward(stream, n, args, Data<T>(dk_pe));
  });
}

}  // namespace mneme::gpu
