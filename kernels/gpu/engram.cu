// Engram's addresses and gate.
//
// ngram_rows: a thread a row number; 8 bytes written each, the tokens from cache.
//
// engram_gate: a warp a (token, branch); three sums over D, then u = alpha v. Floor: (3 M + 1) D a
// bytes a token of a-byte activations, each read or written once: M 4, D 2,560, bf16: 66.6 KB;
// T 16,384: 1.09 GB, 254 µs at 4.3 TB/s.
//
// engram_gate_grad: a block walks tokens, each thread keeps its columns of all branches: first du
// and v (the dots ⟨du, v⟩ and dv), then, one block reduction later, h and k, which were read
// meanwhile. The gradients of the gains, dw_h = w_k Σ c h k and dw_k = w_h Σ c h k, are one sum a
// column, kept in registers over all tokens of the block, written once a block and added up in
// block order by a second kernel. Floor: (5 M + 2) D a bytes a token; as above: 112.6 KB, 1.85 GB,
// 429 µs.
#include <algorithm>
#include <limits>

#include "kernels/gpu/device/ngram.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/engram.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kShortRow = 1024;        // of the gate: one whose value is read ahead
constexpr int kGradColumns = 4;        // of a thread of the gradient
constexpr int kMostGradThreads = 640;  // of a block of the gradient, and about as many resident

__global__ void __launch_bounds__(kThreads)
    HashRows(const __grid_constant__ HashTables constants, HashedText text, int64_t n,
             int64_t first, int64_t tables, int64_t* rows) {
  __shared__ HashTables hash;
  KeepTables(constants, hash);
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const auto mine = static_cast<uint32_t>(hash.tables);
  const uint32_t t = static_cast<uint32_t>(i) / mine;
  const uint32_t k = static_cast<uint32_t>(i) % mine;
  rows[t * tables + first + k] = RowOf(hash, text, t, k);
}

// GateOptions on the device.
struct GateForm {
  float clamp, eps;
  bool signed_sqrt, gated;

  explicit GateForm(const GateOptions& o)
      : clamp(static_cast<float>(o.clamp)),
        eps(static_cast<float>(o.eps)),
        signed_sqrt(o.signed_sqrt),
        gated(o.gated) {}

  __device__ __forceinline__ float Gate(float s) const {
    float g = s;
    if (signed_sqrt) {
      const float root = sqrtf(fmaxf(fabsf(s), clamp));
      g = s > 0 ? root : s < 0 ? -root : s;  // s itself: 0 stays 0, NaN stays NaN
    }
    return 1 / (1 + __expf(-g));
  }
  // ds / dα.
  __device__ __forceinline__ float Slope(float s, float alpha) const {
    const float slope = alpha * (1 - alpha);
    if (!signed_sqrt) return slope;
    const float size = fabsf(s);
    return size > clamp ? slope / (2 * sqrtf(size)) : 0;
  }
};

struct GateShape {
  int64_t tokens;
  int branches, width, kv_width;
};

GateShape ShapeOf(const GateOptions& options, const Tensor& h, const Tensor& kv) {
  const int64_t keys = options.gated ? h.dim(1) : 0;
  CHECK_EQ(kv.shape(), (Shape{h.dim(0), (keys + 1) * h.dim(2)}));
  return {h.dim(0), static_cast<int>(h.dim(1)), static_cast<int>(h.dim(2)),
          static_cast<int>((keys + 1) * h.dim(2))};
}

// Pointers of the gate; what a call does not use is null.
template <class T>
struct GateTensors {
  const T *du, *addend, *h, *kv;
  const float *w_h, *w_k;
  float *rh, *rk, *s, *alpha;
  T *u, *dh, *dkv;
};

__device__ __forceinline__ void Prefetch(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// A warp a (token, branch).
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    GateForward(GateForm form, GateShape n, GateTensors<T> x) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= n.tokens * n.branches) return;
  const int64_t t = i / n.branches;
  const int m = static_cast<int>(i % n.branches);
  const T* keys = x.kv + t * n.kv_width;
  const T* value = keys + n.kv_width - n.width;
  float gate = 1;
  if (form.gated) {
    const T* h = x.h + i * n.width;
    const T* k = keys + m * n.width;
    const float* w_h = x.w_h + m * n.width;
    const float* w_k = x.w_k + m * n.width;
    float hh = 0, kk = 0, hk = 0;
    // The value of a short row is on its way while the sums are made: branches of a token share it.
    for (int j = m; n.width <= kShortRow && (j * kWarp + lane) * N < n.width; j += n.branches) {
      Prefetch(value + (j * kWarp + lane) * N);
    }
#pragma unroll 4
    for (int d = lane * N; d < n.width; d += kWarp * N) {
      float a[N], b[N], p[N], q[N];
      LoadFloats<N>(h + d, a);
      LoadFloats<N>(k + d, b);
#pragma unroll
      for (int j = 0; j < N; j += 4 < N ? 4 : N) {
        constexpr int kFour = 4 < N ? 4 : N;
        LoadFloats<kFour>(w_h + d + j, reinterpret_cast<float(&)[kFour]>(p[j]));
        LoadFloats<kFour>(w_k + d + j, reinterpret_cast<float(&)[kFour]>(q[j]));
      }
#pragma unroll
      for (int j = 0; j < N; ++j) {
        hh += a[j] * a[j];
        kk += b[j] * b[j];
        hk += a[j] * p[j] * (b[j] * q[j]);
      }
    }
    hh = WarpReduce(hh);
    kk = WarpReduce(kk);
    hk = WarpReduce(hk);
    const auto width = static_cast<float>(n.width);
    const float rh = 1 / sqrtf(hh / width + form.eps);
    const float rk = 1 / sqrtf(kk / width + form.eps);
    const float s = hk * (rh * rk / sqrtf(width));
    gate = form.Gate(s);
    if (lane == 0) {
      x.rh[i] = rh;
      x.rk[i] = rk;
      x.s[i] = s;
    }
  }
  if (lane == 0) x.alpha[i] = gate;
  T* u = x.u + i * n.width;
#pragma unroll 4
  for (int d = lane * N; d < n.width; d += kWarp * N) {
    float v[N];
    LoadFloats<N>(value + d, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] *= gate;
    StoreFloats<N>(u + d, v);
  }
}

// dv = Σ_m du; nothing reaches h.
template <class T>
__global__ void __launch_bounds__(kThreads) UngatedBackward(GateShape n, GateTensors<T> x) {
  const int64_t all = n.tokens * n.width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t t = i / n.width;
    const int64_t d = i % n.width;
    float sum = 0;
    for (int m = 0; m < n.branches; ++m) {
      const int64_t at = (t * n.branches + m) * n.width + d;
      sum += ToFloat(x.du[at]);
      if (x.dh != nullptr) x.dh[at] = x.addend == nullptr ? FromFloat<T>(0.0f) : x.addend[at];
    }
    x.dkv[i] = FromFloat<T>(sum);
  }
}

// What one token's branch gives its gradients, once ⟨du, v⟩ is known: c = dot · c, and so on.
struct alignas(16) BranchScales {
  float c, shrink_h, shrink_k, alpha;
};

__device__ __forceinline__ BranchScales ScalesOf(const GateForm& form, float width, float s,
                                                 float rh, float rk, float alpha) {
  const float slope = form.Slope(s, alpha);
  return {slope * (rh * rk * rsqrtf(width)), slope * s * rh * rh / width,
          slope * s * rk * rk / width, alpha};
}

// Numbers of a thread's own in shared memory: a vector of each branch, those of neighbours side by
// side.
template <int N>
struct OwnColumns {
  Vec<float, N>* base;

  __device__ __forceinline__ Vec<float, N>& operator[](int m) const {
    return base[m * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)];
  }
};

// partial [gridDim.x, M, D] = Σ over the block's tokens of c h k. blockDim.x · N covers D. What is
// used is loaded again at once for the next token, so that every number has a token's time to come.
// Dynamic shared memory: w_h w_k of the block's columns, and their sums.
template <class T, int N, int M, bool kMore>
__global__ void __launch_bounds__(kMostGradThreads)
    GateBackward(GateForm form, GateShape n, GateTensors<T> x, int tokens_of_block,
                 float* partial) {
  __shared__ float parts[2][kWarp][M];
  __shared__ BranchScales
      scales[3][M];  // of this token, the next, and one that slow warps may read
  extern __shared__ float4 shared[];
  const OwnColumns<N> gains{reinterpret_cast<Vec<float, N>*>(shared)};
  const OwnColumns<N> sums{gains.base + M * static_cast<int>(blockDim.x)};
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int d = static_cast<int>(threadIdx.x) * N;
  const bool active = d < n.width;
  const auto width = static_cast<float>(n.width);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * tokens_of_block;
  const int64_t end = min(begin + tokens_of_block, n.tokens);
  const auto prepare = [&](int64_t t) {
    if (t >= end || threadIdx.x >= M) return;
    const int64_t i = t * M + threadIdx.x;
    scales[t % 3][threadIdx.x] = ScalesOf(form, width, x.s[i], x.rh[i], x.rk[i], x.alpha[i]);
  };
  RawVec<T, N> du[M], h[M], k[M], v;
  RawVec<T, N> more[kMore ? M : 1];  // the addend
  const auto at = [&](const T* from) { return LoadRaw<N>(from + d); };
  const auto load_outer = [&](int64_t t) {
    if (t >= end) return;
    v = at(x.kv + t * n.kv_width + M * n.width);
#pragma unroll
    for (int m = 0; m < M; ++m) du[m] = at(x.du + (t * M + m) * n.width);
  };
  const auto load_inner = [&](int64_t t, int m) {
    if (t >= end) return;
    h[m] = at(x.h + (t * M + m) * n.width);
    k[m] = at(x.kv + t * n.kv_width + m * n.width);
    if constexpr (kMore) more[m] = at(x.addend + (t * M + m) * n.width);
  };
  if (active) {
    load_outer(begin);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      load_inner(begin, m);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        gains[m].v[j] = x.w_h[m * n.width + d + j] * x.w_k[m * n.width + d + j];
        sums[m].v[j] = 0;
      }
    }
  }
  prepare(begin);
  if (threadIdx.x < kWarp) {  // warps that are not there add nothing
#pragma unroll
    for (int m = 0; m < M; ++m) parts[0][lane][m] = parts[1][lane][m] = 0;
  }
  __syncthreads();
  for (int64_t t = begin; t < end; ++t) {
    prepare(t + 1);
    float dots[M] = {};
    if (active) {
      float dv[N] = {};
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const float alpha = scales[t % 3][m].alpha;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const float g = du[m][j];
          dots[m] += g * v[j];
          dv[j] += alpha * g;
        }
      }
      StoreFloats<N>(x.dkv + t * n.kv_width + M * n.width + d, dv);
      load_outer(t + 1);
    }
#pragma unroll
    for (int m = 0; m < M; ++m) dots[m] = WarpReduce(dots[m]);
    if (warps > 1) {
      if (lane == 0) {
#pragma unroll
        for (int m = 0; m < M; ++m) parts[t & 1][threadIdx.x / kWarp][m] = dots[m];
      }
      __syncthreads();
#pragma unroll
      for (int m = 0; m < M; ++m) dots[m] = WarpReduce(parts[t & 1][lane][m]);
    } else {
      __syncwarp();
    }
    if (!active) continue;
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const BranchScales scale = scales[t % 3][m];
      const float c = dots[m] * scale.c;
      const float shrink_h = dots[m] * scale.shrink_h;
      const float shrink_k = dots[m] * scale.shrink_k;
      float dh[N], dk[N];
      const Vec<float, N> gain = gains[m];
      Vec<float, N> sum = sums[m];
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float a = h[m][j];
        const float b = k[m][j];
        dh[j] = c * gain.v[j] * b - shrink_h * a;
        if constexpr (kMore) dh[j] += more[m][j];
        dk[j] = c * gain.v[j] * a - shrink_k * b;
        sum.v[j] += c * a * b;
      }
      sums[m] = sum;
      load_inner(t + 1, m);
      StoreFloats<N>(x.dh + (t * M + m) * n.width + d, dh);
      StoreFloats<N>(x.dkv + t * n.kv_width + m * n.width + d, dk);
    }
  }
  if (!active) return;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float* to = partial + (static_cast<int64_t>(blockIdx.x) * M + m) * n.width + d;
    *reinterpret_cast<Vec<float, N>*>(to) = sums[m];
  }
}

// Any width and number of branches: a block a token; c of every branch goes to memory.
template <class T>
__global__ void __launch_bounds__(kThreads)
    GateBackwardAny(GateForm form, GateShape n, GateTensors<T> x, float* cs) {
  const int64_t t = blockIdx.x;
  const auto width = static_cast<float>(n.width);
  const T* keys = x.kv + t * n.kv_width;
  const T* value = keys + n.branches * n.width;
  T* dkeys = x.dkv + t * n.kv_width;
  for (int m = 0; m < n.branches; ++m) {
    const int64_t i = t * n.branches + m;
    float dot = 0;
    for (int d = static_cast<int>(threadIdx.x); d < n.width; d += kThreads) {
      dot += ToFloat(x.du[i * n.width + d]) * ToFloat(value[d]);
    }
    dot = BlockReduce(dot);
    const float s = x.s[i], rh = x.rh[i], rk = x.rk[i];
    const float ds = dot * form.Slope(s, x.alpha[i]);
    const float c = ds * (rh * rk * rsqrtf(width));
    const float shrink_h = ds * s * rh * rh / width;
    const float shrink_k = ds * s * rk * rk / width;
    for (int d = static_cast<int>(threadIdx.x); d < n.width; d += kThreads) {
      const float a = ToFloat(x.h[i * n.width + d]);
      const float b = ToFloat(keys[m * n.width + d]);
      const float cw = c * x.w_h[m * n.width + d] * x.w_k[m * n.width + d];
      const float more = x.addend == nullptr ? 0.0f : ToFloat(x.addend[i * n.width + d]);
      x.dh[i * n.width + d] = FromFloat<T>(more + (cw * b - shrink_h * a));
      dkeys[m * n.width + d] = FromFloat<T>(cw * a - shrink_k * b);
    }
    if (threadIdx.x == 0) cs[i] = c;
  }
  for (int d = static_cast<int>(threadIdx.x); d < n.width; d += kThreads) {
    float dv = 0;
    for (int m = 0; m < n.branches; ++m) {
      const int64_t i = t * n.branches + m;
      dv += x.alpha[i] * ToFloat(x.du[i * n.width + d]);
    }
    dkeys[n.branches * n.width + d] = FromFloat<T>(dv);
  }
}

// partial [gridDim.y, M D] of c h k over the tokens of gridDim.y shares: a thread a column.
template <class T>
__global__ void __launch_bounds__(kThreads)
    SumAny(GateShape n, GateTensors<T> x, const float* cs, int tokens_of_block, float* partial) {
  const int columns = n.branches * n.width;
  const int at = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (at >= columns) return;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * tokens_of_block;
  const int64_t end = min(begin + tokens_of_block, n.tokens);
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    sum += cs[t * n.branches + at / n.width] * ToFloat(x.h[t * columns + at]) *
           ToFloat(x.kv[t * n.kv_width + at]);
  }
  partial[static_cast<int64_t>(blockIdx.y) * columns + at] = sum;
}

// dw_h += w_k Σ partial, dw_k += w_h Σ partial, in the order of the blocks. A warp takes 32
// columns' sums at a time: eight rows of threads share the blocks, joined in order.
constexpr int kShares = 8;
__global__ void __launch_bounds__(kWarp* kShares)
    AddGains(const float* partial, int blocks, int columns, const float* w_h, const float* w_k,
             float* dw_h, float* dw_k) {
  __shared__ float all[kShares][kWarp];
  const int at = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.x);
  const int share = (blocks + kShares - 1) / kShares;
  const int begin = static_cast<int>(threadIdx.y) * share;
  const int end = min(blocks, begin + share);
  float sum = 0;
  if (at < columns) {
#pragma unroll 8
    for (int b = begin; b < end; ++b) sum += partial[static_cast<int64_t>(b) * columns + at];
  }
  all[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || at >= columns) return;
  for (int i = 1; i < kShares; ++i) sum += all[i][threadIdx.x];
  dw_h[at] += sum * w_k[at];
  dw_k[at] += sum * w_h[at];
}

void QueueGains(Stream& stream, const Tensor& partial, int64_t blocks, int64_t columns,
                const Tensor& w_h, const Tensor& w_k, Tensor& dw_h, Tensor& dw_k) {
  Launch(stream, AddGains, dim3(static_cast<unsigned>(CeilDiv(columns, kWarp))),
         dim3(kWarp, kShares), 0, Data<float>(partial), static_cast<int>(blocks),
         static_cast<int>(columns), Data<float>(w_h), Data<float>(w_k), Data<float>(dw_h),
         Data<float>(dw_k));
}

template <class T, int M>
void BackwardFast(Stream& stream, const GateForm& form, const GateShape& n, const GateTensors<T>& x,
                  const Tensor& w_h, const Tensor& w_k, Tensor& dw_h, Tensor& dw_k) {
  const int64_t threads = CeilDiv(CeilDiv(n.width, kGradColumns), kWarp) * kWarp;
  const int64_t resident = std::max<int64_t>(1, kMostGradThreads / threads);
  const int64_t most = QueueOf(stream).multiprocessors * resident;
  const int64_t tokens_of_block = CeilDiv(n.tokens, most);
  const int64_t blocks = CeilDiv(n.tokens, tokens_of_block);
  const int64_t columns = int64_t{M} * n.width;
  Tensor partial = Tensor::Empty(stream, DType::kF32, {blocks, columns}, MemoryTag::kWorkspace);
  const auto kernel = x.addend == nullptr ? GateBackward<T, kGradColumns, M, false>
                                          : GateBackward<T, kGradColumns, M, true>;
  Launch(stream, kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
         static_cast<size_t>(2 * threads * kGradColumns * M) * sizeof(float), form, n, x,
         static_cast<int>(tokens_of_block), Data<float>(partial));
  QueueGains(stream, partial, blocks, columns, w_h, w_k, dw_h, dw_k);
}

template <class T>
void BackwardAny(Stream& stream, const GateForm& form, const GateShape& n, const GateTensors<T>& x,
                 const Tensor& w_h, const Tensor& w_k, Tensor& dw_h, Tensor& dw_k) {
  constexpr int64_t kTokens = 256;  // of a share
  const int64_t columns = int64_t{n.branches} * n.width;
  const int64_t shares = CeilDiv(n.tokens, kTokens);
  Tensor cs = Tensor::Empty(stream, DType::kF32, {n.tokens * n.branches}, MemoryTag::kWorkspace);
  Tensor partial = Tensor::Empty(stream, DType::kF32, {shares, columns}, MemoryTag::kWorkspace);
  Launch(stream, GateBackwardAny<T>, dim3(static_cast<unsigned>(n.tokens)), kThreads, 0, form, n, x,
         Data<float>(cs));
  Launch(stream, SumAny<T>,
         dim3(static_cast<unsigned>(CeilDiv(columns, kThreads)), static_cast<unsigned>(shares)),
         kThreads, 0, n, x, Data<float>(cs), static_cast<int>(kTokens), Data<float>(partial));
  QueueGains(stream, partial, shares, columns, w_h, w_k, dw_h, dw_k);
}

}  // namespace

void NgramRows(Stream& stream, const NgramHash& hash, const Tensor& tokens, const Tensor& canonical,
               int64_t length, const Tensor& doc_start, Tensor& rows) {
  const auto tables = static_cast<int64_t>(hash.primes.size());
  CHECK_EQ(rows.shape(), (Shape{tokens.elements(), tables}));
  CHECK_LT(rows.elements(), int64_t{std::numeric_limits<int32_t>::max()});
  const HashedText text = MakeHashedText(tokens, canonical, length, doc_start);
  for (int64_t first = 0; first < tables; first += kMostTables) {
    const int64_t count = std::min<int64_t>(kMostTables, tables - first);
    const int64_t n = tokens.elements() * count;
    Launch(stream, HashRows, dim3(static_cast<unsigned>(CeilDiv(n, kThreads))), kThreads, 0,
           MakeHashTables(hash, first, count), text, n, first, tables, Data<int64_t>(rows));
  }
}

void EngramGate(Stream& stream, const GateOptions& options, const Tensor& h, const Tensor& kv,
                const Tensor& w_h, const Tensor& w_k, Tensor& rh, Tensor& rk, Tensor& s,
                Tensor& alpha, Tensor& u) {
  const GateShape n = ShapeOf(options, h, kv);
  const dim3 grid(static_cast<unsigned>(CeilDiv(n.tokens * n.branches, kThreads / kWarp)));
  DispatchActivation(h.dtype(), [&](auto zero) {
    using T = decltype(zero);
    GateTensors<T> x = {};
    x.h = Data<T>(h);
    x.kv = Data<T>(kv);
    x.w_h = Data<float>(w_h);
    x.w_k = Data<float>(w_k);
    x.rh = Data<float>(rh);
    x.rk = Data<float>(rk);
    x.s = Data<float>(s);
    x.alpha = Data<float>(alpha);
    x.u = Data<T>(u);
    if (n.width % kVec<T> == 0) {
      Launch(stream, GateForward<T, kVec<T>>, grid, kThreads, 0, GateForm(options), n, x);
    } else {
      Launch(stream, GateForward<T, 1>, grid, kThreads, 0, GateForm(options), n, x);
    }
  });
}

void EngramGateGrad(Stream& stream, const GateOptions& options, const Tensor& du,
                    const Tensor& addend, const Tensor& h, const Tensor& kv, const Tensor& w_h,
                    const Tensor& w_k, const Tensor& rh, const Tensor& rk, const Tensor& s,
                    const Tensor& alpha, Tensor& dh, Tensor& dkv, Tensor& dw_h, Tensor& dw_k) {
  const GateShape n = ShapeOf(options, h, kv);
  const GateForm form(options);
  DispatchActivation(h.dtype(), [&](auto zero) {
    using T = decltype(zero);
    GateTensors<T> x = {};
    x.du = Data<T>(du);
    x.addend = Data<T>(addend);
    x.h = Data<T>(h);
    x.kv = Data<T>(kv);
    x.w_h = Data<float>(w_h);
    x.w_k = Data<float>(w_k);
    x.rh = const_cast<float*>(Data<float>(rh));
    x.rk = const_cast<float*>(Data<float>(rk));
    x.s = const_cast<float*>(Data<float>(s));
    x.alpha = const_cast<float*>(Data<float>(alpha));
    x.dh = Data<T>(dh);
    x.dkv = Data<T>(dkv);
    if (!form.gated) {
      const int64_t blocks = std::min<int64_t>(CeilDiv(n.tokens * n.width, kThreads),
                                               int64_t{QueueOf(stream).multiprocessors} * 16);
      return Launch(stream, UngatedBackward<T>, dim3(static_cast<unsigned>(blocks)), kThreads, 0, n,
                    x);
    }
    const bool fits = n.width % kGradColumns == 0 && n.width <= kMostGradThreads * kGradColumns;
    const auto with = [&](auto branches) {
      BackwardFast<T, decltype(branches)::value>(stream, form, n, x, w_h, w_k, dw_h, dw_k);
    };
    if (fits && n.branches == 4) return with(std::integral_constant<int, 4>{});
    if (fits && n.branches == 2) return with(std::integral_constant<int, 2>{});
    if (fits && n.branches == 1) return with(std::integral_constant<int, 1>{});
    BackwardAny(stream, form, n, x, w_h, w_k, dw_h, dw_k);
  });
}

}  // namespace mneme::gpu
