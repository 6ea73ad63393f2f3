// The skinny product of mHC, x̃ [T, nC] · φ [nC, 24], and its gradient, in one pass over the
// streams each.
//
// Two to four streams in bf16: tensor cores, fp32 sums. Fragments come straight from global memory,
// 16 bytes a lane (device/fragment.cuh).
//   Forward: a block takes 64 tokens, its warps deal out blocks of 32 of the inner index, so that
//   a row is read 512 bytes at a time; sums of squares come from the same registers; the warps'
//   partial sums are added in order. φ travels as bf16, transposed, 0.5 MB through L2 a block.
//   Gradient: a warp owns 32 columns of every stream and walks over tokens, 16 a step, with the
//   next step on its way into shared memory; each lane finds its own bytes there. φ stays in shared
//   memory, x̃ᵀ du in registers: one partial sum for each range of tokens, added in order.
// Anything else (f32, other stream counts, odd widths): plain kernels, fp32.
//
// Roofline at the 27B shape (T 16,384, C 2,560, n 4): forward reads 336 MB, the gradient reads
// dout, x, dh and writes dx: 1,091 MB. 8 and 24 GFLOP of products: 1 and 3 % of the tensor cores.
#include <algorithm>

#include "kernels/gpu/device/parts.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/streams.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/hyper.h"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlockK = 32;  // inner index of one fragment row

// ---- Forward, tensor cores ----

constexpr int kRowTiles = 4;             // of 16 tokens
constexpr int kTokens = 16 * kRowTiles;  // of a block

// columns_first[c][k] = w(k, c), 0 from w.columns on; gridDim.y tiles of eight columns.
__global__ void __launch_bounds__(kThreads)
    PackKernel(Projection w, int flat, bf16* columns_first) {
  const int k = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (k >= flat) return;
  float v[8];
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int c = 8 * static_cast<int>(blockIdx.y) + e;
    v[e] = c < w.columns ? w.weights[k * w.row_stride + c * w.column_stride] : 0.0f;
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    columns_first[(int64_t{blockIdx.y} * 8 + e) * flat + k] = __float2bfloat16_rn(v[e]);
  }
}

// kTiles: columns / 8, rounded up.
template <int kTiles>
__global__ void __launch_bounds__(kThreads, 2)
    ProjectKernel(const bf16* x, const bf16* columns_first, int64_t tokens, int flat, int columns,
                  float eps, float* r, float* m) {
  constexpr int kStride = 8 * kTiles + 1;  // the sum of squares last
  __shared__ float sums[kTokens * kStride];
  const int warp = threadIdx.x / kWarp;
  const int g = threadIdx.x % kWarp / 4;
  const int q = threadIdx.x % 4;
  const int64_t first = int64_t{blockIdx.x} * kTokens;
  const uint4* row[kRowTiles][2];  // rows past the end repeat the last one; nobody reads their sums
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = min(first + 16 * i + 8 * half + g, tokens - 1);
      row[i][half] = reinterpret_cast<const uint4*>(x + t * flat) + q;
    }
  }
  const auto* weights = reinterpret_cast<const uint4*>(columns_first + int64_t{g} * flat) + q;
  float acc[kRowTiles][kTiles][4] = {};
  float squares[kRowTiles][2] = {};
  for (int block = warp; block < flat / kBlockK; block += kWarps) {
    uint4 a[kRowTiles][2];
    uint4 b[kTiles];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      a[i][0] = row[i][0][block * 4];
      a[i][1] = row[i][1][block * 4];
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) b[n] = weights[int64_t{n} * flat + block * 4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const uint32_t low[4] = {a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y};
      const uint32_t high[4] = {a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w};
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        Mma(acc[i][n], low, b[n].x, b[n].y);
        Mma(acc[i][n], high, b[n].z, b[n].w);
      }
      squares[i][0] += SquaresOf(a[i][0]);
      squares[i][1] += SquaresOf(a[i][1]);
    }
  }
  // The four lanes of a row hold parts of its sum of squares.
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      squares[i][half] += __shfl_xor_sync(0xffffffffu, squares[i][half], 1);
      squares[i][half] += __shfl_xor_sync(0xffffffffu, squares[i][half], 2);
    }
  }
  for (int turn = 0; turn < kWarps; ++turn) {
    if (warp == turn) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* to = sums + (16 * i + 8 * half + g) * kStride;
#pragma unroll
          for (int n = 0; n < kTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& s = to[8 * n + 2 * q + e];
              s = (turn == 0 ? 0.0f : s) + acc[i][n][2 * half + e];
            }
          }
          if (q == 0) to[8 * kTiles] = (turn == 0 ? 0.0f : to[8 * kTiles]) + squares[i][half];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kTokens * columns; i += kThreads) {
    const int t = i / columns;
    const int c = i % columns;
    if (first + t >= tokens) break;
    const float* from = sums + t * kStride;
    const float root = sqrtf(from[8 * kTiles] / static_cast<float>(flat) + eps);
    m[(first + t) * columns + c] = from[c] / root;
    if (c == 0) r[first + t] = root;
  }
}

// ---- Gradient, tensor cores ----

constexpr int kWidth = kBlockK * kWarps;  // columns of every stream that a block owns
constexpr int kStages = 2;
constexpr int kMixPieces = kStep * kColumns / 4;  // of 16 bytes: du

template <bool kResidual, int kN>
struct GradShared {
  static constexpr int kVectors = 2 * (kResidual ? 2 * kN + 1 : kN + 1);
  uint4 weights[kN * 4][kThreads];             // fragments of φ
  uint4 vectors[kStages][kVectors][kThreads];  // every thread reads back what it asked for
  TokenStage<kN> token[kStages];
};

struct GradArgs {
  const bf16* dout;
  const float* res;
  const bf16* dh;
  const float* pre;
  const bf16* x;
  const float* du;
  const float* factor;
  Projection w;
  int64_t tokens;
  int width;
  bf16* dx;
  float* parts;  // [gridDim.y, as w]
};

// Asks for step `step` of the block's tokens; what lies past the end arrives as zeros.
template <bool kResidual, int kN>
__device__ __forceinline__ void Fetch(const GradArgs& a, int64_t step, int column, bool owner,
                                      GradShared<kResidual, kN>& shared, int stage) {
  const int g = threadIdx.x % kWarp / 4;
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t t = step * kStep + 8 * half + g;
    const bool valid = owner && t < a.tokens;
    const int64_t flat_at = valid ? t * kN * a.width + column + 8 * q : 0;
    int v = half * (GradShared<kResidual, kN>::kVectors / 2);
#pragma unroll
    for (int s = 0; s < kN; ++s) {
      CopyAsync16(&shared.vectors[stage][v++][threadIdx.x], a.x + flat_at + s * a.width, valid);
    }
    if constexpr (kResidual) {
#pragma unroll
      for (int s = 0; s < kN; ++s) {
        CopyAsync16(&shared.vectors[stage][v++][threadIdx.x], a.dout + flat_at + s * a.width,
                    valid);
      }
    }
    CopyAsync16(&shared.vectors[stage][v][threadIdx.x],
                a.dh + (valid ? t * a.width + column + 8 * q : 0), valid);
  }
  TokenStage<kN>& token = shared.token[stage];
  const int64_t first = step * kStep;
  const int left = static_cast<int>(min(int64_t{kStep}, a.tokens - first));
  if (a.w.columns == kColumns) {
    for (int i = threadIdx.x; i < kMixPieces; i += kThreads) {
      const bool valid = i * 4 / kColumns < left;
      CopyAsync16(&token.du[0][0] + i * 4, a.du + (valid ? first * kColumns + i * 4 : 0), valid);
    }
  } else {
    for (int i = threadIdx.x; i < kStep * kColumns; i += kThreads) {
      const int t = i / kColumns;
      const int c = i % kColumns;
      const bool valid = t < left && c < a.w.columns;
      CopyFloatAsync(&token.du[t][c], a.du + (valid ? (first + t) * a.w.columns + c : 0), valid);
    }
  }
  // Elsewhere than among four streams a token's do not fill pieces of 16 bytes.
  const auto copy = [&](float* to, const float* from, int of_token) {
    if constexpr (kN == 4) {
      const int i = static_cast<int>(threadIdx.x);
      const bool valid = i * 4 / of_token < left;
      if (i < kStep * of_token / 4) CopyAsync16(to + i * 4, from + (valid ? i * 4 : 0), valid);
    } else {
      for (int i = threadIdx.x; i < kStep * of_token; i += kThreads) {
        const bool valid = i / of_token < left;
        CopyFloatAsync(to + i, from + (valid ? i : 0), valid);
      }
    }
  };
  if constexpr (kResidual) copy(&token.res[0][0][0], a.res + first * kN * kN, kN * kN);
  copy(&token.pre[0][0], a.pre + first * kN, kN);
  const int p = static_cast<int>(threadIdx.x) - (kThreads - kStep);
  if (p >= 0) CopyFloatAsync(&token.factor[p], a.factor + (p < left ? first + p : 0), p < left);
  CopyAsyncCommit();
}
static_assert(kStep * kStreams * kStreams / 4 <= kThreads);

// gridDim.x: blocks of kWidth columns; gridDim.y: how many share out the steps.
template <bool kResidual, int kN>
__global__ void __launch_bounds__(kThreads, 1) GradKernel(const __grid_constant__ GradArgs a) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<GradShared<kResidual, kN>*>(memory);
  const int q = threadIdx.x % 4;
  const int column =
      (static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp) * kBlockK;
  const bool owner = column < a.width;
  const int64_t steps = (a.tokens + kStep - 1) / kStep;
  int stage = 0;
  if (blockIdx.y < steps) Fetch<kResidual, kN>(a, blockIdx.y, column, owner, shared, stage);
  for (int i = 0; owner && i < kN * 4; ++i) {
    const uint3 w = WeightFragment(a.w, a.width, column, i / 4, i % 4);
    shared.weights[i][threadIdx.x] = make_uint4(w.x, w.y, w.z, 0);
  }
  WeightSums<kN> sums = {};
  for (int64_t step = blockIdx.y; step < steps; step += gridDim.y) {
    CopyAsyncWait<0>();
    __syncthreads();
    const TokenStage<kN>& token = shared.token[stage];
    const auto& vectors = shared.vectors[stage];
    stage ^= 1;
    if (step + gridDim.y < steps) {
      Fetch<kResidual, kN>(a, step + gridDim.y, column, owner, shared, stage);
    }
    if (!owner) continue;
    constexpr int kHalf = GradShared<kResidual, kN>::kVectors / 2;
    StreamsStep<kResidual, kN>(
        token, [&](int half, int s) { return vectors[half * kHalf + s][threadIdx.x]; },
        [&](int half) { return vectors[half * kHalf + kHalf - 1][threadIdx.x]; },
        [&](int half, int s) { return vectors[half * kHalf + kN + s][threadIdx.x]; },
        [&](int s, int j) {
          const uint4 w = shared.weights[s * 4 + j][threadIdx.x];
          return make_uint3(w.x, w.y, w.z);
        },
        a.width, a.tokens - step * kStep, a.dx + step * kStep * kN * a.width + column + 8 * q,
        sums);
  }
  if (!owner) return;
  StoreSums(sums, a.w, a.width, column, a.parts + int64_t{blockIdx.y} * kN * a.width * a.w.columns);
}

// ---- Plain kernels: any dtype, any number of streams, any width ----

constexpr int kPlainTokens = 8;
constexpr int kDepth = 256;
constexpr int kTurn = 32;  // tokens of a turn of the weights' gradient

// A lane a column, a warp a share of the inner index.
template <class A>
__global__ void __launch_bounds__(kThreads)
    ProjectPlainKernel(const A* x, int64_t tokens, int flat, Projection w, float eps, float* r,
                       float* m) {
  __shared__ float tile[kDepth][kPlainTokens];
  __shared__ float sums[kWarps][kPlainTokens][kWarp];
  __shared__ float roots[kPlainTokens];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int column = static_cast<int>(blockIdx.y) * kWarp + lane;
  const int64_t first = int64_t{blockIdx.x} * kPlainTokens;
  float acc[kPlainTokens] = {};
  float squares = 0;  // of token `warp`
  for (int base = 0; base < flat; base += kDepth) {
    __syncthreads();
    for (int k = lane; k < kDepth; k += kWarp) {
      const bool valid = base + k < flat && first + warp < tokens;
      const float v = valid ? ToFloat(x[(first + warp) * flat + base + k]) : 0.0f;
      tile[k][warp] = v;
      squares += v * v;
    }
    __syncthreads();
    if (column >= w.columns) continue;
    for (int k = warp; k < min(kDepth, flat - base); k += kWarps) {
      const float weight = w.weights[(base + k) * w.row_stride + column * w.column_stride];
#pragma unroll
      for (int t = 0; t < kPlainTokens; ++t) acc[t] += tile[k][t] * weight;
    }
  }
  squares = WarpReduce(squares);
  if (lane == 0) roots[warp] = sqrtf(squares / static_cast<float>(flat) + eps);
#pragma unroll
  for (int t = 0; t < kPlainTokens; ++t) sums[warp][t][lane] = acc[t];
  __syncthreads();
  if (first + warp >= tokens) return;
  if (lane == 0 && blockIdx.y == 0) r[first + warp] = roots[warp];
  if (column >= w.columns) return;
  float sum = 0;
  for (int p = 0; p < kWarps; ++p) sum += sums[p][warp][lane];
  m[(first + warp) * w.columns + column] = sum / roots[warp];
}
static_assert(kPlainTokens == kWarps);

// A thread an element of kPlainTokens tokens.
template <class A>
__global__ void __launch_bounds__(kThreads)
    StreamsGradPlainKernel(const A* dout, const float* res, const A* dh, const float* pre,
                           const A* x, const float* du, const float* factor, Projection w,
                           int64_t tokens, int n, int width, A* dx) {
  const int k = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int64_t first = int64_t{blockIdx.y} * kPlainTokens;
  if (k >= n * width) return;
  const int j = k / width;
  const int c = k % width;
  const int count = static_cast<int>(min(int64_t{kPlainTokens}, tokens - first));
  float acc[kPlainTokens] = {};
  for (int column = 0; column < w.columns; ++column) {
    const float weight = w.weights[k * w.row_stride + column * w.column_stride];
#pragma unroll
    for (int t = 0; t < kPlainTokens; ++t) {
      if (t < count) acc[t] += du[(first + t) * w.columns + column] * weight;
    }
  }
#pragma unroll
  for (int t = 0; t < kPlainTokens; ++t) {
    if (t >= count) break;
    const int64_t token = first + t;
    const int64_t at = token * n * width + k;
    float v = acc[t] + factor[token] * ToFloat(x[at]);
    v += pre[token * n + j] * ToFloat(dh[token * width + c]);
    for (int i = 0; dout != nullptr && i < n; ++i) {
      v += res[(token * n + i) * n + j] * ToFloat(dout[(token * n + i) * width + c]);
    }
    dx[at] = FromFloat<A>(v);
  }
}

// parts[range] = x̃ᵀ du over a range of tokens: 32 of the inner index and 32 columns a block.
template <class A>
__global__ void __launch_bounds__(kThreads)
    WeightGradPlainKernel(const A* x, const float* du, Projection w, int64_t tokens, int flat,
                          float* parts) {
  constexpr int kEach = kWarp / kWarps;
  __shared__ float x_tile[kTurn][kWarp];
  __shared__ float du_tile[kTurn][kWarp];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int base = static_cast<int>(blockIdx.x) * kWarp;
  const int column = static_cast<int>(blockIdx.z) * kWarp + lane;
  const int64_t begin = tokens * blockIdx.y / gridDim.y;
  const int64_t end = tokens * (blockIdx.y + 1) / gridDim.y;
  float acc[kEach] = {};
  for (int64_t first = begin; first < end; first += kTurn) {
    __syncthreads();
    for (int t = warp; t < kTurn; t += kWarps) {
      const bool valid = first + t < end;
      x_tile[t][lane] =
          valid && base + lane < flat ? ToFloat(x[(first + t) * flat + base + lane]) : 0.0f;
      du_tile[t][lane] = valid && column < w.columns ? du[(first + t) * w.columns + column] : 0.0f;
    }
    __syncthreads();
    for (int t = 0; t < kTurn; ++t) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) acc[e] += x_tile[t][warp * kEach + e] * du_tile[t][lane];
    }
  }
  if (column >= w.columns) return;
  float* part = parts + int64_t{blockIdx.y} * flat * w.columns;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int k = base + warp * kEach + e;
    if (k < flat) part[k * w.row_stride + column * w.column_stride] = acc[e];
  }
}

// ---- Which kernels, and their launches ----

int64_t Flat(const Tensor& x) { return x.dim(1) * x.dim(2); }

bool OnTensorCores(const Tensor& x, const Projection& w) {
  return x.dtype() == DType::kBf16 && x.dim(1) > 1 && x.dim(1) <= kStreams &&
         x.dim(2) % kBlockK == 0 && w.columns <= kColumns;
}

bool GradFits(Stream& stream) {
  return sizeof(GradShared<true, kStreams>) <= static_cast<size_t>(QueueOf(stream).shared_bytes);
}

template <int kTiles>
void ProjectOnTensorCores(Stream& stream, const Tensor& x, const Projection& w, double eps,
                          Tensor& r, Tensor& m) {
  const auto flat = static_cast<int>(Flat(x));
  Tensor packed = Tensor::Empty(stream, DType::kBf16, {8 * kTiles, flat}, MemoryTag::kWorkspace);
  Launch(stream, PackKernel, dim3(static_cast<unsigned>(CeilDiv(flat, kThreads)), kTiles), kThreads,
         0, w, flat, Data<bf16>(packed));
  Launch(stream, ProjectKernel<kTiles>, dim3(static_cast<unsigned>(CeilDiv(x.dim(0), kTokens))),
         kThreads, 0, Data<bf16>(x), Data<bf16>(packed), x.dim(0), flat, w.columns,
         static_cast<float>(eps), Data<float>(r), Data<float>(m));
}

template <bool kResidual, int kN>
void GradOnTensorCores(Stream& stream, const StreamsGrad& g, const Projection& w, Tensor& dx,
                       Tensor& dw) {
  // Blocks that the grid aims at: a constant, so that the bits depend on the shape alone.
  constexpr int64_t kBlocks = 132;
  const int64_t tokens = g.x.dim(0);
  const int64_t owners = CeilDiv(g.x.dim(2), kWidth);
  const int64_t ranges = std::clamp<int64_t>(kBlocks / owners, 1, CeilDiv(tokens, kStep));
  Tensor parts = Tensor::Empty(stream, DType::kF32, {ranges, dw.elements()}, MemoryTag::kWorkspace);
  const GradArgs args{Data<bf16>(g.dout),
                      Data<float>(g.res),
                      Data<bf16>(g.dh),
                      Data<float>(g.pre),
                      Data<bf16>(g.x),
                      Data<float>(g.du),
                      Data<float>(g.factor),
                      w,
                      tokens,
                      static_cast<int>(g.x.dim(2)),
                      Data<bf16>(dx),
                      Data<float>(parts)};
  Launch(stream, GradKernel<kResidual, kN>,
         dim3(static_cast<unsigned>(owners), static_cast<unsigned>(ranges)), kThreads,
         sizeof(GradShared<kResidual, kN>), args);
  AddParts(stream, Data<float>(parts), ranges, dw.elements(), dw.elements(), Data<float>(dw));
}

template <class A>
void GradPlain(Stream& stream, const StreamsGrad& g, const Projection& w, Tensor& dx, Tensor& dw) {
  constexpr int64_t kTokensOfRange = 256;
  constexpr int64_t kMostRanges = 32;
  const int64_t tokens = g.x.dim(0);
  const auto n = static_cast<int>(g.x.dim(1));
  const auto width = static_cast<int>(g.x.dim(2));
  const auto flat = static_cast<int>(Flat(g.x));
  Launch(stream, StreamsGradPlainKernel<A>,
         dim3(static_cast<unsigned>(CeilDiv(flat, kThreads)),
              static_cast<unsigned>(CeilDiv(tokens, kPlainTokens))),
         kThreads, 0, Data<A>(g.dout), Data<float>(g.res), Data<A>(g.dh), Data<float>(g.pre),
         Data<A>(g.x), Data<float>(g.du), Data<float>(g.factor), w, tokens, n, width, Data<A>(dx));
  const int64_t ranges = std::clamp<int64_t>(tokens / kTokensOfRange, 1, kMostRanges);
  Tensor parts = Tensor::Empty(stream, DType::kF32, {ranges, dw.elements()}, MemoryTag::kWorkspace);
  Launch(stream, WeightGradPlainKernel<A>,
         dim3(static_cast<unsigned>(CeilDiv(flat, kWarp)), static_cast<unsigned>(ranges),
              static_cast<unsigned>(CeilDiv(w.columns, kWarp))),
         kThreads, 0, Data<A>(g.x), Data<float>(g.du), w, tokens, flat, Data<float>(parts));
  AddParts(stream, Data<float>(parts), ranges, dw.elements(), dw.elements(), Data<float>(dw));
}

}  // namespace

void Project(Stream& stream, const Tensor& x, const Projection& w, double eps, Tensor& r,
             Tensor& m) {
  CHECK_EQ(m.dim(1), int64_t{w.columns});
  if (x.elements() == 0) return;
  if (OnTensorCores(x, w)) {
    if (w.columns <= 8) return ProjectOnTensorCores<1>(stream, x, w, eps, r, m);
    return ProjectOnTensorCores<kColumns / 8>(stream, x, w, eps, r, m);
  }
  DispatchActivation(x.dtype(), [&](auto real) {
    using A = decltype(real);
    Launch(stream, ProjectPlainKernel<A>,
           dim3(static_cast<unsigned>(CeilDiv(x.dim(0), kPlainTokens)),
                static_cast<unsigned>(CeilDiv(w.columns, kWarp))),
           kThreads, 0, Data<A>(x), x.dim(0), static_cast<int>(Flat(x)), w, static_cast<float>(eps),
           Data<float>(r), Data<float>(m));
  });
}

void ProjectGrad(Stream& stream, const StreamsGrad& g, const Projection& w, Tensor& dx,
                 Tensor& dw) {
  CHECK_EQ(dx.shape(), g.x.shape());
  CHECK_EQ(dw.elements(), Flat(g.x) * w.columns);
  if (dx.elements() == 0) return;
  if (OnTensorCores(g.x, w) && GradFits(stream)) {
    const auto of = [&](auto count) {
      if (g.dout.defined()) return GradOnTensorCores<true, count()>(stream, g, w, dx, dw);
      GradOnTensorCores<false, count()>(stream, g, w, dx, dw);
    };
    if (g.x.dim(1) == 2) return of(std::integral_constant<int, 2>{});
    if (g.x.dim(1) == 3) return of(std::integral_constant<int, 3>{});
    return of(std::integral_constant<int, 4>{});
  }
  DispatchActivation(dx.dtype(),
                     [&](auto real) { GradPlain<decltype(real)>(stream, g, w, dx, dw); });
}

}  // namespace mneme::gpu
