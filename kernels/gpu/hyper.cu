// mHC on the streams x [T, n, C]: the mixes of a sub-layer and the learned read-out, what they do
// to the streams, and the gradients (docs/mathematics.md). Everything here is bound by memory; the
// products with φ are in hyper_project.cu.
//
// Passes over the streams, four of them in bf16, at the 27B shape (T 16,384, C 2,560; one pass over
// x is 336 MB, over h or y 84 MB), and without Hopper's kernels in brackets:
//   enter        reads x, writes h (hyper_sm90.cu)                          420 MB  [756]
//   leave        reads x, y, writes out                                     755
//   leave_enter  both: reads x, y, writes out, h (hyper_sm90.cu)            839  [1,511]
//   leave_grad   reads dout, x, y, writes dy, keeps the dots                839
//   enter_grad   reads dout, x, dh, writes dx (hyper_grad_sm90.cu)        1,091  [1,510]
// 2.8 GB a sub-layer, against 0.5 of the plain residual. Elsewhere φ's product and the dots ⟨dh,
// x_i⟩ are passes of their own; the pass after each begins where it ended, for what is still in L2.
// The mixes themselves (Sinkhorn and its way back) are one thread a token, a few microseconds.
#include <algorithm>

#include "kernels/gpu/device/parts.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/sinkhorn.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/hyper.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/limits.h"
#include "kernels/ops/hyper.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// ---- The mixes of a token: one thread ----

constexpr int kTokenThreads = 32;

struct Mixing {
  int64_t tokens;
  int n;
  int iterations;
  float eps;
  float post_mult;
  float flat;  // n C
};

__device__ __forceinline__ float Sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

// The logits of H of a token.
template <int kN>
__device__ __forceinline__ void LoadLogits(const float* m, float gain, const float* bias, int n,
                                           float (&y)[kN][kN]) {
#pragma unroll
  for (int i = 0; i < kN; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const int k = n * i + j;
      y[i][j] = i < n && j < n ? gain * m[k] + bias[k] : 0.0f;
    }
  }
}

template <int kN>
__global__ void __launch_bounds__(kTokenThreads)
    MixKernel(const float* m, const float* alpha, const float* b, Mixing a, float* pre, float* post,
              float* res) {
  const int64_t t = int64_t{blockIdx.x} * kTokenThreads + threadIdx.x;
  if (t >= a.tokens) return;
  const int n = kN < kMostStreams ? kN : a.n;
  const float* row = m + t * (n * n + 2 * n);
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i >= n) break;
    pre[t * n + i] = Sigmoid(alpha[0] * row[i] + b[i]) + a.eps;
    post[t * n + i] = a.post_mult * Sigmoid(alpha[1] * row[n + i] + b[n + i]);
  }
  Sinkhorn<kN> s;
  s.n = n;
  s.halves = 2 * a.iterations;
  s.eps = a.eps;
  LoadLogits<kN>(row + 2 * n, alpha[2], b + 2 * n, n, s.y);
  float softmax[kN][kN];
  s.Softmax(softmax);
  s.Forward([](int, int, float) {});
#pragma unroll
  for (int i = 0; i < kN; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      if (i < n && j < n) res[t * n * n + n * i + j] = s.y[i][j];
    }
  }
}

// Sums over the block's tokens; every thread calls, `slot` is the same in all.
__device__ __forceinline__ void SumTokens(float value, int slot, float* part) {
  value = WarpReduce(value);
  if (threadIdx.x == 0) part[slot] = value;
}

// du, the factor of x̃ in dx̃, and the block's part of (dalpha, db). Where dpre is null, it comes
// later: see ProjectGradWithDots, and PreSumsKernel for its part of the sums. Divisors of the half
// iterations stand in shared memory: [half · n + line][thread].
template <int kN>
__global__ void __launch_bounds__(kTokenThreads)
    MixGradKernel(const float* dpre, const float* dpost, const float* dres, const float* m,
                  const float* r, const float* alpha, const float* b, Mixing a, float* du,
                  float* factor, float* late, float* parts) {
  extern __shared__ float divisors[];
  const int64_t t = int64_t{blockIdx.x} * kTokenThreads + threadIdx.x;
  const bool valid = t < a.tokens;
  const int n = kN < kMostStreams ? kN : a.n;
  const int columns = n * n + 2 * n;
  float* part = parts + int64_t{blockIdx.x} * (3 + columns);
  const int64_t at = valid ? t : 0;
  const float* row = m + at * columns;
  const float root = valid ? 1.0f / r[at] : 0.0f;
  float dalpha[3] = {};
  float inner = 0;
  // dz of column c: its part of the sums, and du. Called by all threads.
  const auto finish = [&](int c, int group, float dz) {
    if (!valid) dz = 0;
    const float mix = row[c];
    dalpha[group] += dz * mix;
    SumTokens(dz, 3 + c, part);
    const float dm = dz * alpha[group];
    inner += dm * mix;
    if (valid) du[t * columns + c] = dm * root;
  };
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i >= n) break;
    const float p = Sigmoid(alpha[0] * row[i] + b[i]);
    const float slope = p * (1.0f - p);
    if (dpre != nullptr) {
      finish(i, 0, dpre[at * n + i] * slope);
    } else if (valid) {
      du[t * columns + i] = slope * alpha[0] * root;
      late[t * n + i] = -slope * alpha[0] * row[i] * root * root / a.flat;
    }
    const float q = Sigmoid(alpha[1] * row[n + i] + b[n + i]);
    finish(n + i, 1, dpost[at * n + i] * a.post_mult * q * (1.0f - q));
  }
  Sinkhorn<kN> s;
  s.n = n;
  s.halves = 2 * a.iterations;
  s.eps = a.eps;
  LoadLogits<kN>(row + 2 * n, alpha[2], b + 2 * n, n, s.y);
  float softmax[kN][kN];
  s.Softmax(softmax);
  s.Forward([&](int half, int line, float d) {
    divisors[(half * n + line) * kTokenThreads + threadIdx.x] = d;
  });
  float grad[kN][kN];
#pragma unroll
  for (int i = 0; i < kN; ++i) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      grad[i][j] = i < n && j < n ? dres[at * n * n + n * i + j] : 0.0f;
    }
  }
  s.Backward(grad, [&](int half, int line) {
    return divisors[(half * n + line) * kTokenThreads + threadIdx.x];
  });
#pragma unroll
  for (int j = 0; j < kN; ++j) {
    if (j >= n) break;
    float mean = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) mean += grad[i][j] * softmax[i][j];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if (i < n) finish(2 * n + n * i + j, 2, softmax[i][j] * (grad[i][j] - mean));
    }
  }
  for (int group = dpre == nullptr ? 1 : 0; group < 3; ++group) {
    SumTokens(dalpha[group], group, part);
  }
  if (valid) factor[t] = -inner * root * root / a.flat;
}

// What dpre adds to the parts that MixGradKernel left.
__global__ void __launch_bounds__(kTokenThreads)
    PreSumsKernel(const float* dpre, const float* m, const float* alpha, const float* b, Mixing a,
                  float* parts) {
  const int64_t t = int64_t{blockIdx.x} * kTokenThreads + threadIdx.x;
  const bool valid = t < a.tokens;
  const int columns = a.n * a.n + 2 * a.n;
  float* part = parts + int64_t{blockIdx.x} * (3 + columns);
  float dalpha = 0;
  for (int i = 0; i < a.n; ++i) {
    const float mix = valid ? m[t * columns + i] : 0.0f;
    const float p = Sigmoid(alpha[0] * mix + b[i]);
    const float dz = valid ? dpre[t * a.n + i] * p * (1.0f - p) : 0.0f;
    dalpha += dz * mix;
    SumTokens(dz, 3 + i, part);
  }
  SumTokens(dalpha, 0, part);
}

// w = σ(scale · logit + base) + eps.
__global__ void __launch_bounds__(kThreads)
    ReadWeightsKernel(const float* logit, const float* scale, const float* base, int64_t count,
                      int n, float eps, float* w) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k < count) w[k] = Sigmoid(scale[0] * logit[k] + base[k % n]) + eps;
}

// As MixGradKernel, for the read-out: parts are (dscale, dbase).
__global__ void __launch_bounds__(kTokenThreads)
    ReadGradKernel(const float* dw, const float* logit, const float* r, const float* scale,
                   const float* base, int64_t tokens, int n, float flat, float* du, float* factor,
                   float* parts) {
  const int64_t t = int64_t{blockIdx.x} * kTokenThreads + threadIdx.x;
  const bool valid = t < tokens;
  const int64_t at = valid ? t : 0;
  float* part = parts + int64_t{blockIdx.x} * (1 + n);
  const float root = valid ? 1.0f / r[at] : 0.0f;
  float dscale = 0;
  float inner = 0;
  for (int i = 0; i < n; ++i) {
    const float z = logit[at * n + i];
    const float p = Sigmoid(scale[0] * z + base[i]);
    const float dz = valid ? dw[at * n + i] * p * (1.0f - p) : 0.0f;
    dscale += dz * z;
    SumTokens(dz, 1 + i, part);
    inner += dz * scale[0] * z;
    if (valid) du[t * n + i] = dz * scale[0] * root;
  }
  SumTokens(dscale, 0, part);
  if (valid) factor[t] = -inner * root * root / flat;
}

// ---- Streams: a thread takes kV neighbours of every stream ----

// Item i: kV columns of token i / (C / kV).
template <int kV>
struct Place {
  int64_t token;
  int column;

  __device__ __forceinline__ explicit Place(int width)
      : token((int64_t{blockIdx.y} * gridDim.x + blockIdx.x) * kThreads + threadIdx.x) {
    const int per_token = width / kV;
    const int64_t item = token;
    if (item < int64_t{0x7fffffff}) {
      const auto small = static_cast<uint32_t>(item);
      token = small / static_cast<uint32_t>(per_token);
      column = static_cast<int>(small % static_cast<uint32_t>(per_token)) * kV;
    } else {
      token = item / per_token;
      column = static_cast<int>(item % per_token) * kV;
    }
  }
};

// h = Σ w_i x_i, or factor · Σ x_i where w is null. The last token first: it may still be in L2.
template <class A, int kV, int kN>
__global__ void __launch_bounds__(kThreads)
    WeightedSumKernel(const A* x, const float* w, float factor, int64_t tokens, int streams,
                      int width, A* h) {
  const Place<kV> at(width);
  if (at.token >= tokens) return;
  const int n = kN < kMostStreams ? kN : streams;
  const int64_t t = tokens - 1 - at.token;
  const A* from = x + t * n * width + at.column;
  float sum[kV] = {};
  float v[kN][kV];
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i < n) LoadFloats<kV>(from + int64_t{i} * width, v[i]);
  }
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i >= n) break;
    const float by = w == nullptr ? 1.0f : w[t * n + i];
#pragma unroll
    for (int c = 0; c < kV; ++c) sum[c] += by * v[i][c];
  }
  if (w == nullptr) {
#pragma unroll
    for (int c = 0; c < kV; ++c) sum[c] *= factor;
  }
  StoreFloats<kV>(h + t * width + at.column, sum);
}

template <class A, int kV>
__global__ void __launch_bounds__(kThreads)
    ExpandKernel(const A* x, int64_t tokens, int n, int width, A* out) {
  const Place<kV> at(width);
  if (at.token >= tokens) return;
  const auto v = *reinterpret_cast<const Vec<A, kV>*>(x + at.token * width + at.column);
  for (int i = 0; i < n; ++i) {
    *reinterpret_cast<Vec<A, kV>*>(out + (at.token * n + i) * width + at.column) = v;
  }
}

// out_i = Σ_j res[i, j] x_j + post_i y.
template <class A, int kV, int kN>
__global__ void __launch_bounds__(kThreads)
    LeaveKernel(const A* x, const float* res, const float* post, const A* y, int64_t tokens,
                int streams, int width, A* out) {
  const Place<kV> at(width);
  if (at.token >= tokens) return;
  const int n = kN < kMostStreams ? kN : streams;
  const int64_t t = at.token;
  const int64_t first = t * n * width + at.column;
  float v[kN][kV];
  float layer[kV];
#pragma unroll
  for (int j = 0; j < kN; ++j) {
    if (j < n) LoadFloats<kV>(x + first + int64_t{j} * width, v[j]);
  }
  LoadFloats<kV>(y + t * width + at.column, layer);
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i >= n) break;
    const float p = post[t * n + i];
    float sum[kV];
#pragma unroll
    for (int c = 0; c < kV; ++c) sum[c] = p * layer[c];
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      if (j >= n) break;
      const float by = res[(t * n + i) * n + j];
#pragma unroll
      for (int c = 0; c < kV; ++c) sum[c] += by * v[j][c];
    }
    StoreFloats<kV>(out + first + int64_t{i} * width, sum);
  }
}

// ---- Dots over the width: a warp a token ----

// dot[i] = ⟨dh, x_i⟩. The last token first: the first ones may still be in L2 for ProjectGrad.
template <class A, int kV, int kN>
__global__ void __launch_bounds__(kThreads)
    DotsKernel(const A* dh, const A* x, int64_t tokens, int streams, int width, float* dots) {
  const int64_t t = tokens - 1 - (int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp);
  if (t < 0) return;
  const int n = kN < kMostStreams ? kN : streams;
  const int lane = threadIdx.x % kWarp;
  float sum[kN] = {};
#pragma unroll 2
  for (int c = lane * kV; c < width; c += kWarp * kV) {
    float d[kV];
    LoadFloats<kV>(dh + t * width + c, d);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if (i >= n) break;
      float v[kV];
      LoadFloats<kV>(x + (t * n + i) * width + c, v);
#pragma unroll
      for (int e = 0; e < kV; ++e) sum[i] += d[e] * v[e];
    }
  }
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i >= n) break;
    const float total = WarpReduce(sum[i]);
    if (lane == 0) dots[t * n + i] = total;
  }
}

// dy = Σ post_i dout_i; dpost_i = ⟨dout_i, y⟩; dres[i, j] = ⟨dout_i, x_j⟩.
template <class A, int kV, int kN>
__global__ void __launch_bounds__(kThreads)
    LeaveGradKernel(const A* dout, const A* x, const float* post, const A* y, int64_t tokens,
                    int streams, int width, float* dres, float* dpost, A* dy) {
  const int64_t t = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (t >= tokens) return;
  const int n = kN < kMostStreams ? kN : streams;
  const int lane = threadIdx.x % kWarp;
  float weight[kN];
#pragma unroll
  for (int i = 0; i < kN; ++i) weight[i] = i < n ? post[t * n + i] : 0.0f;
  float mixed[kN][kN] = {};
  float through[kN] = {};
  for (int c = lane * kV; c < width; c += kWarp * kV) {
    const int64_t first = t * n * width + c;
    float v[kN][kV];
    float layer[kV];
    float sum[kV] = {};
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      if (j < n) LoadFloats<kV>(x + first + int64_t{j} * width, v[j]);
    }
    LoadFloats<kV>(y + t * width + c, layer);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if (i >= n) break;
      float d[kV];
      LoadFloats<kV>(dout + first + int64_t{i} * width, d);
#pragma unroll
      for (int e = 0; e < kV; ++e) {
        sum[e] += weight[i] * d[e];
        through[i] += d[e] * layer[e];
      }
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if (j >= n) break;
#pragma unroll
        for (int e = 0; e < kV; ++e) mixed[i][j] += d[e] * v[j][e];
      }
    }
    StoreFloats<kV>(dy + t * width + c, sum);
  }
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if (i >= n) break;
    const float total = WarpReduce(through[i]);
    if (lane == 0) dpost[t * n + i] = total;
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      if (j >= n) break;
      const float mix = WarpReduce(mixed[i][j]);
      if (lane == 0) dres[(t * n + i) * n + j] = mix;
    }
  }
}

// ---- Launches ----

struct Streams {
  int64_t tokens;
  int n;
  int width;
  int64_t flat() const { return int64_t{n} * width; }
  int columns() const { return n * n + 2 * n; }
};

Streams StreamsOf(const Tensor& x) {
  CHECK_EQ(x.shape().rank(), 3);
  CHECK_LE(x.dim(1), int64_t{kMostStreams});
  return {x.dim(0), static_cast<int>(x.dim(1)), static_cast<int>(x.dim(2))};
}

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls f(most streams): the count itself from 2 to 4, which the kernels know then; else
// kMostStreams.
template <class F>
void DispatchCount(int n, F&& f) {
  static_assert(kMostStreams > 4);
  if (n == 2) return f(Constant<2>{});
  if (n == 3) return f(Constant<3>{});
  if (n == 4) return f(Constant<4>{});
  f(Constant<kMostStreams>{});
}

// Calls f(A{}, elements a thread takes, most streams): 16 bytes of two to four streams, or one
// element of up to kMostStreams.
template <class F>
void DispatchStreams(DType dtype, const Streams& s, F&& f) {
  DispatchActivation(dtype, [&](auto real) {
    constexpr int kV = kVec<decltype(real)>;
    if (s.width % kV != 0) return f(real, Constant<1>{}, Constant<kMostStreams>{});
    DispatchCount(s.n, [&](auto most) {
      constexpr bool kAny = most() == kMostStreams;
      f(real, Constant < kAny ? 1 : kV > {}, most);
    });
  });
}

dim3 Grid(int64_t blocks) {
  constexpr int64_t kMostX = 1 << 30;
  return dim3(static_cast<unsigned>(std::min(blocks, kMostX)),
              static_cast<unsigned>(CeilDiv(blocks, kMostX)));
}
dim3 ItemGrid(const Streams& s, int elements) {
  return Grid(CeilDiv(s.tokens * (s.width / elements), kThreads));
}
dim3 WarpGrid(const Streams& s) { return Grid(CeilDiv(s.tokens, kWarps)); }

Mixing MixingOf(const HyperOptions& o, const Streams& s) {
  return {s.tokens,
          s.n,
          static_cast<int>(o.sinkhorn_iterations),
          static_cast<float>(o.eps),
          static_cast<float>(o.post_mult),
          static_cast<float>(s.flat())};
}

// h = Σ w_i x_i; w may be undefined: factor · Σ x_i.
void WeightedSum(Stream& stream, const Tensor& x, const Tensor& w, double factor, Tensor& h) {
  const Streams s = StreamsOf(x);
  DispatchStreams(x.dtype(), s, [&](auto real, auto v, auto most) {
    using A = decltype(real);
    Launch(stream, WeightedSumKernel<A, v(), most()>, ItemGrid(s, v()), kThreads, 0, Data<A>(x),
           Data<float>(w), static_cast<float>(factor), s.tokens, s.n, s.width, Data<A>(h));
  });
}

void Dots(Stream& stream, const Tensor& dh, const Tensor& x, Tensor& dots) {
  const Streams s = StreamsOf(x);
  DispatchStreams(x.dtype(), s, [&](auto real, auto v, auto most) {
    using A = decltype(real);
    Launch(stream, DotsKernel<A, v(), most()>, WarpGrid(s), kThreads, 0, Data<A>(dh), Data<A>(x),
           s.tokens, s.n, s.width, Data<float>(dots));
  });
}

// The mixes read φ row by row, the read-out its rows as columns.
Projection MixProjection(const Tensor& phi, const Streams& s) {
  CHECK_EQ(phi.shape(), (Shape{s.flat(), s.columns()}));
  return {Data<float>(phi), s.columns(), 1, s.columns()};
}
Projection ReadProjection(const Tensor& fn, const Streams& s) {
  CHECK_EQ(fn.shape(), (Shape{s.n, s.flat()}));
  return {Data<float>(fn), 1, s.flat(), s.n};
}

Gate GateOf(const HyperOptions& options, const Tensor& gain, const Tensor& bias) {
  return {Data<float>(gain), Data<float>(bias), static_cast<float>(options.eps)};
}

void Mix(Stream& stream, const HyperOptions& options, const Streams& s, const Tensor& m,
         const Tensor& alpha, const Tensor& b, Tensor& pre, Tensor& post, Tensor& res) {
  DispatchCount(s.n, [&](auto most) {
    Launch(stream, MixKernel<most()>, Grid(CeilDiv(s.tokens, kTokenThreads)), kTokenThreads, 0,
           Data<float>(m), Data<float>(alpha), Data<float>(b), MixingOf(options, s),
           Data<float>(pre), Data<float>(post), Data<float>(res));
  });
}

// The gradients of gains and biases as one row.
struct GateSums {
  float* gains;
  int count;
  float* biases;
  __device__ __forceinline__ float& operator[](int64_t i) const {
    return i < count ? gains[i] : biases[i - count];
  }
};

// What a gradient of the mixes or of the read-out leaves for ProjectGrad and for the sums.
struct TokenGrads {
  int64_t blocks;
  Tensor du, factor, parts;

  TokenGrads(Stream& stream, const Streams& s, int columns, int sums)
      : blocks(CeilDiv(s.tokens, kTokenThreads)),
        du(Tensor::Empty(stream, DType::kF32, {s.tokens, columns}, MemoryTag::kWorkspace)),
        factor(Tensor::Empty(stream, DType::kF32, {s.tokens}, MemoryTag::kWorkspace)),
        parts(Tensor::Empty(stream, DType::kF32, {blocks, sums}, MemoryTag::kWorkspace)) {}

  // gains += the first sums, biases += the rest.
  void AddTo(Stream& stream, Tensor& gains, Tensor& biases) {
    AddParts(stream, Data<float>(parts), blocks, parts.dim(1), parts.dim(1),
             GateSums{Data<float>(gains), static_cast<int>(gains.elements()), Data<float>(biases)});
  }
};

}  // namespace

void HyperEnter(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor& phi,
                const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m, Tensor& pre,
                Tensor& post, Tensor& res, Tensor& h) {
  const Streams s = StreamsOf(x);
  CHECK_EQ(int64_t{s.n}, options.streams);
  if (x.elements() == 0) return;
  const Projection projection = MixProjection(phi, s);
  const bool one_pass = InOnePass(stream, x);
  if (one_pass) {
    ProjectAndSum(stream, x, projection, options.norm_eps, GateOf(options, alpha, b), r, m, h);
  } else {
    Project(stream, x, projection, options.norm_eps, r, m);
  }
  Mix(stream, options, s, m, alpha, b, pre, post, res);
  if (!one_pass) WeightedSum(stream, x, pre, 1.0, h);
}

void HyperLeaveEnter(Stream& stream, const HyperOptions& options, const Tensor& x,
                     const Tensor& res, const Tensor& post, const Tensor& y, Tensor& out,
                     const Tensor& phi, const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m,
                     Tensor& next_pre, Tensor& next_post, Tensor& next_res, Tensor& h) {
  const Streams s = StreamsOf(x);
  CHECK_EQ(int64_t{s.n}, options.streams);
  if (x.elements() == 0) return;
  if (!InOnePass(stream, x)) {
    HyperLeave(stream, x, res, post, y, out);
    HyperEnter(stream, options, out, phi, alpha, b, r, m, next_pre, next_post, next_res, h);
    return;
  }
  LeaveProjectAndSum(stream, {x, res, post, y}, out, MixProjection(phi, s), options.norm_eps,
                     GateOf(options, alpha, b), r, m, h);
  Mix(stream, options, s, m, alpha, b, next_pre, next_post, next_res);
}

void HyperLeave(Stream& stream, const Tensor& x, const Tensor& res, const Tensor& post,
                const Tensor& y, Tensor& out) {
  const Streams s = StreamsOf(x);
  if (x.elements() == 0) return;
  DispatchStreams(x.dtype(), s, [&](auto real, auto v, auto most) {
    using A = decltype(real);
    Launch(stream, LeaveKernel<A, v(), most()>, ItemGrid(s, v()), kThreads, 0, Data<A>(x),
           Data<float>(res), Data<float>(post), Data<A>(y), s.tokens, s.n, s.width, Data<A>(out));
  });
}

void HyperLeaveGrad(Stream& stream, const Tensor& dout, const Tensor& x, const Tensor& post,
                    const Tensor& y, Tensor& dres, Tensor& dpost, Tensor& dy) {
  const Streams s = StreamsOf(x);
  if (x.elements() == 0) return;
  DispatchStreams(x.dtype(), s, [&](auto real, auto v, auto most) {
    using A = decltype(real);
    Launch(stream, LeaveGradKernel<A, v(), most()>, WarpGrid(s), kThreads, 0, Data<A>(dout),
           Data<A>(x), Data<float>(post), Data<A>(y), s.tokens, s.n, s.width, Data<float>(dres),
           Data<float>(dpost), Data<A>(dy));
  });
}

void HyperEnterGrad(Stream& stream, const HyperOptions& options, const Tensor& dout,
                    const Tensor& dh, const Tensor& dres, const Tensor& dpost, const Tensor& x,
                    const Tensor& phi, const Tensor& alpha, const Tensor& b, const Tensor& r,
                    const Tensor& m, const Tensor& pre, const Tensor& res, Tensor& dx, Tensor& dphi,
                    Tensor& dalpha, Tensor& db) {
  const Streams s = StreamsOf(x);
  if (x.elements() == 0) return;
  Tensor dpre = Tensor::Empty(stream, DType::kF32, {s.tokens, s.n}, MemoryTag::kWorkspace);
  const bool one_pass = InOnePass(stream, x);
  if (!one_pass) Dots(stream, dh, x, dpre);
  TokenGrads grads(stream, s, s.columns(), 3 + s.columns());
  Tensor late;
  if (one_pass) late = Tensor::Empty(stream, DType::kF32, dpre.shape(), MemoryTag::kWorkspace);
  const size_t shared =
      sizeof(float) * static_cast<size_t>(2 * options.sinkhorn_iterations * s.n * kTokenThreads);
  const Mixing mixing = MixingOf(options, s);
  DispatchCount(s.n, [&](auto most) {
    Launch(stream, MixGradKernel<most()>, Grid(grads.blocks), kTokenThreads, shared,
           one_pass ? nullptr : Data<float>(dpre), Data<float>(dpost), Data<float>(dres),
           Data<float>(m), Data<float>(r), Data<float>(alpha), Data<float>(b), mixing,
           Data<float>(grads.du), Data<float>(grads.factor), Data<float>(late),
           Data<float>(grads.parts));
  });
  const StreamsGrad of_streams{dout, res, dh, pre, x, grads.du, grads.factor};
  const Projection projection = MixProjection(phi, s);
  if (one_pass) {
    ProjectGradWithDots(stream, of_streams, late, projection, dpre, dx, dphi);
    Launch(stream, PreSumsKernel, Grid(grads.blocks), kTokenThreads, 0, Data<float>(dpre),
           Data<float>(m), Data<float>(alpha), Data<float>(b), mixing, Data<float>(grads.parts));
  } else {
    ProjectGrad(stream, of_streams, projection, dx, dphi);
  }
  grads.AddTo(stream, dalpha, db);
}

void HyperRead(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor& fn,
               const Tensor& scale, const Tensor& base, Tensor& r, Tensor& logit, Tensor& w,
               Tensor& h) {
  const Streams s = StreamsOf(x);
  if (x.elements() == 0) return;
  const Projection projection = ReadProjection(fn, s);
  const Gate gate = GateOf(options, scale, base);
  const bool one_pass = InOnePass(stream, x);
  if (one_pass) {
    ProjectAndSum(stream, x, projection, options.norm_eps, gate, r, logit, h);
  } else {
    Project(stream, x, projection, options.norm_eps, r, logit);
  }
  Launch(stream, ReadWeightsKernel, Grid(CeilDiv(w.elements(), kThreads)), kThreads, 0,
         Data<float>(logit), Data<float>(scale), Data<float>(base), w.elements(), s.n,
         static_cast<float>(options.eps), Data<float>(w));
  if (!one_pass) WeightedSum(stream, x, w, 1.0, h);
}

void HyperReadGrad(Stream& stream, const HyperOptions&, const Tensor& dh, const Tensor& x,
                   const Tensor& fn, const Tensor& scale, const Tensor& base, const Tensor& r,
                   const Tensor& logit, const Tensor& w, Tensor& dx, Tensor& dfn, Tensor& dscale,
                   Tensor& dbase) {
  const Streams s = StreamsOf(x);
  if (x.elements() == 0) return;
  Tensor dw = Tensor::Empty(stream, DType::kF32, {s.tokens, s.n}, MemoryTag::kWorkspace);
  Dots(stream, dh, x, dw);
  TokenGrads grads(stream, s, s.n, 1 + s.n);
  Launch(stream, ReadGradKernel, Grid(grads.blocks), kTokenThreads, 0, Data<float>(dw),
         Data<float>(logit), Data<float>(r), Data<float>(scale), Data<float>(base), s.tokens, s.n,
         static_cast<float>(s.flat()), Data<float>(grads.du), Data<float>(grads.factor),
         Data<float>(grads.parts));
  grads.AddTo(stream, dscale, dbase);
  const Tensor none;
  ProjectGrad(stream, {none, none, dh, w, x, grads.du, grads.factor}, ReadProjection(fn, s), dx,
              dfn);
}

void HyperExpand(Stream& stream, const Tensor& x, Tensor& out) {
  const Streams s = StreamsOf(out);
  if (x.elements() == 0) return;
  DispatchStreams(x.dtype(), s, [&](auto real, auto v, auto) {
    using A = decltype(real);
    Launch(stream, ExpandKernel<A, v()>, ItemGrid(s, v()), kThreads, 0, Data<A>(x), s.tokens, s.n,
           s.width, Data<A>(out));
  });
}

void HyperReduce(Stream& stream, const Tensor& x, double factor, Tensor& h) {
  if (x.elements() == 0) return;
  WeightedSum(stream, x, Tensor(), factor, h);
}

}  // namespace mneme::gpu
