// Engram's short depthwise causal convolution, its activation and skip, and the gradients.
//
// A thread has N neighbouring channels and walks tokens by strides of the dilation: t, t + d, t +
// 2d, … The taps of each step are then the values of the last steps, kept in registers: every input
// is read once, whatever the taps. A walk is kSteps long; walks overlap by the taps - 1 steps that
// they read (and, on the way back, compute) twice. Lanes of a warp take neighbouring channels, rows
// of a block different walks.
//
// The gradient walks the same way: dc of a step from the window of n, dn of the token taps - 1
// steps ago from the window of dc. dw is summed in registers over a walk, over the block's walks in
// shared memory, then over blocks in block order by a second kernel.
//
// Floor, a-byte activations, C channels: forward 3 C a bytes a token (n, u, y), backward the same
// (dy, n, dn). C 10,240, T 16,384, bf16: 1.01 GB, 234 µs at 4.3 TB/s each.
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/conv.h"

namespace mneme::gpu {
namespace {

constexpr int kLanes = 32;  // threads of a block across channels
constexpr int kWalks = 8;   // and along tokens
constexpr int kSteps = 64;  // of a walk
constexpr int kAhead = 4;   // steps whose numbers are on their way together
constexpr int kThreads = kLanes * kWalks;
constexpr int kMostTaps = 4;  // of the walking kernels

struct Geometry {
  int64_t tokens;
  int channels, taps, dilation, length;
  const int32_t* doc_start;

  // Tokens before t, in its document.
  __device__ __forceinline__ int History(int64_t t) const {
    return static_cast<int>(static_cast<uint32_t>(t) % static_cast<uint32_t>(length)) -
           doc_start[t];
  }
};

template <class T>
struct ConvTensors {
  const T *n, *u, *addend, *dy;
  const float* w;
  T *y, *dn;
};

// The taps of N channels: w [C, taps].
template <int N, int kTaps>
__device__ __forceinline__ void LoadTaps(const float* w, int channel, float (&to)[N][kTaps]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if constexpr (kTaps == 4) {
      LoadFloats<4>(w + static_cast<int64_t>(channel + i) * 4, to[i]);
    } else {
#pragma unroll
      for (int j = 0; j < kTaps; ++j) to[i][j] = w[static_cast<int64_t>(channel + i) * kTaps + j];
    }
  }
}

// This thread's channels, and its walk through the tokens.
struct Walk {
  int channel;
  int64_t token;
  int place;  // of the token in its row

  __device__ __forceinline__ Walk(const Geometry& g, int columns)
      : channel((static_cast<int>(blockIdx.x) * kLanes + static_cast<int>(threadIdx.x)) * columns) {
    const int64_t walk = static_cast<int64_t>(blockIdx.y) * kWalks + threadIdx.y;
    token = walk / g.dilation * kSteps * g.dilation + walk % g.dilation;
    place = static_cast<int>(token % g.length);
  }
  __device__ __forceinline__ void Step(const Geometry& g) {
    token += g.dilation;
    place += g.dilation;
    if (place >= g.length) place %= g.length;
  }
};

// Steps of a walk that are read before any of them is computed.
template <class T, int N, bool kMore>
struct Batch {
  RawVec<T, N> n[kAhead], other[kAhead];  // other: u, or dy
  RawVec<T, N> more[kMore ? kAhead : 1];  // the addend
  int history[kAhead];                    // tokens before, in the document; −1: no such token

  __device__ __forceinline__ void Load(const Geometry& g, const T* n_at, const T* other_at,
                                       const T* more_at, Walk& walk) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      history[i] = -1;
      n[i] = {};
      other[i] = {};
      if constexpr (kMore) more[i] = {};
      if (walk.token < g.tokens) {
        const int64_t at = walk.token * g.channels + walk.channel;
        n[i] = LoadRaw<N>(n_at + at);
        other[i] = LoadRaw<N>(other_at + at);
        if constexpr (kMore) more[i] = LoadRaw<N>(more_at + at);
        history[i] = walk.place - g.doc_start[walk.token];
      }
      walk.Step(g);
    }
  }
};

// c of one token from the window of n: window[k] stands k steps back. A tap outside the document
// reads 0.
template <int N, int kTaps, class T>
__device__ __forceinline__ void Convolve(const Geometry& g, const float (&w)[N][kTaps],
                                         const RawVec<T, N> (&window)[kTaps], int history,
                                         float (&c)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) c[i] = 0;
#pragma unroll
  for (int k = kTaps - 1; k >= 0; --k) {
    if (k * g.dilation > history) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) c[i] += w[i][kTaps - 1 - k] * window[k][i];
  }
}

template <class V, int kTaps>
__device__ __forceinline__ void Shift(V (&window)[kTaps]) {
#pragma unroll
  for (int k = kTaps - 1; k > 0; --k) window[k] = window[k - 1];
}

__device__ __forceinline__ float Sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }

// The window as it stands before the walk's first step.
template <int N, int kTaps, class T>
__device__ __forceinline__ void StartWindow(const T* n, const Walk& walk, const Geometry& g,
                                            RawVec<T, N> (&window)[kTaps]) {
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    window[k] = {};
    const int64_t from = walk.token - static_cast<int64_t>(k + 1) * g.dilation;
    if (k + 1 < kTaps && from >= 0 && from < g.tokens) {
      window[k] = LoadRaw<N>(n + from * g.channels + walk.channel);
    }
  }
}

template <class T, int N, int kTaps, bool kMore>
__global__ void __launch_bounds__(kThreads, kMore && sizeof(T) == 4 ? 2 : 3)
    WalkForward(Geometry g, ConvTensors<T> x) {
  Walk walk(g, N);
  if (walk.channel >= g.channels) return;
  float w[N][kTaps];
  LoadTaps<N, kTaps>(x.w, walk.channel, w);
  RawVec<T, N> window[kTaps];
  StartWindow<N, kTaps>(x.n, walk, g, window);
  int64_t out = walk.token * g.channels + walk.channel;
  const int64_t stride = static_cast<int64_t>(g.dilation) * g.channels;
  for (int step = 0; step < kSteps && walk.token < g.tokens; step += kAhead) {
    Batch<T, N, kMore> batch;
    batch.Load(g, x.n, x.u, x.addend, walk);
#pragma unroll
    for (int i = 0; i < kAhead; ++i, out += stride) {
      if (batch.history[i] < 0) continue;
      Shift(window);
      window[0] = batch.n[i];
      float c[N];
      Convolve<N, kTaps>(g, w, window, batch.history[i], c);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        c[j] = batch.other[i][j] + c[j] * Sigmoid(c[j]);
        if constexpr (kMore) c[j] += batch.more[i][j];
      }
      StoreFloats<N>(x.y + out, c);
    }
  }
}

// What the walk back keeps of its last steps.
template <class T, int N, int kTaps>
struct Backlog {
  RawVec<T, N> n[kTaps];  // k steps back
  float slope[kTaps][N];  // dc, likewise
  int history[kTaps];     // tokens before, in the document; −1: no such token
  int whole = 0;          // steps in a row in which no tap left the document

  // One step: c and dc of the new token, its part of dw, dn of the token kTaps − 1 steps back.
  // kAll: no tap of any step in here leaves the document.
  template <bool kAll>
  __device__ __forceinline__ void Compute(const Geometry& g, const float (&w)[N][kTaps],
                                          const float (&dy)[N], bool own, float (&dw)[N][kTaps],
                                          float (&dn)[N]) {
    const auto inside = [&](int step, int k) { return kAll || k * g.dilation <= history[step]; };
    if (kAll || history[0] >= 0) {
      float c[N] = {};
#pragma unroll
      for (int k = kTaps - 1; k >= 0; --k) {
        if (!inside(0, k)) continue;
#pragma unroll
        for (int i = 0; i < N; ++i) c[i] += w[i][kTaps - 1 - k] * n[k][i];
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float sigma = Sigmoid(c[i]);
        slope[0][i] = dy[i] * (sigma + c[i] * (sigma - sigma * sigma));
      }
      if (own) {
#pragma unroll
        for (int k = 0; k < kTaps; ++k) {
          if (!inside(0, k)) continue;
#pragma unroll
          for (int i = 0; i < N; ++i) dw[i][kTaps - 1 - k] += slope[0][i] * n[k][i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) dn[i] = 0;
#pragma unroll
    for (int j = kTaps - 1; j >= 0; --j) {
      // Its reader by tap j stands j steps back from here.
      if (!inside(j, kTaps - 1 - j)) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) dn[i] += w[i][j] * slope[j][i];
    }
  }
};

// partial [gridDim.y, C, taps].
template <class T, int N, int kTaps>
__global__ void __launch_bounds__(kThreads, 2)
    WalkBackward(Geometry g, ConvTensors<T> x, float* partial) {
  __shared__ float sums[kWalks][kLanes * N * kTaps];
  Walk walk(g, N);
  float dw[N][kTaps] = {};
  if (walk.channel < g.channels) {
    float w[N][kTaps];
    LoadTaps<N, kTaps>(x.w, walk.channel, w);
    Backlog<T, N, kTaps> log;
    {
      RawVec<T, N> window[kTaps];
      StartWindow<N, kTaps>(x.n, walk, g, window);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        log.history[k] = -1;
        log.n[k] = window[k];
#pragma unroll
        for (int i = 0; i < N; ++i) log.slope[k][i] = 0;
      }
    }
    const int reach = (kTaps - 1) * g.dilation;
    const int64_t stride = static_cast<int64_t>(g.dilation) * g.channels;
    // The token that tap 0 of a step reads has all its readers then.
    int64_t read = walk.token - reach;
    int64_t out = read * g.channels + walk.channel;
    for (int first = 0; first < kSteps + kTaps - 1 && read < g.tokens; first += kAhead) {
      Batch<T, N, false> batch;
      batch.Load(g, x.n, x.dy, nullptr, walk);
#pragma unroll
      for (int b = 0; b < kAhead; ++b, read += g.dilation, out += stride) {
        const int step = first + b;
#pragma unroll
        for (int k = kTaps - 1; k > 0; --k) {
          log.history[k] = log.history[k - 1];
          log.n[k] = log.n[k - 1];
#pragma unroll
          for (int i = 0; i < N; ++i) log.slope[k][i] = log.slope[k - 1][i];
        }
        log.history[0] = batch.history[b];
        log.n[0] = batch.n[b];
        log.whole = log.history[0] >= reach ? log.whole + 1 : 0;
        float dy[N], dn[N];
#pragma unroll
        for (int i = 0; i < N; ++i) dy[i] = batch.other[b][i];
        if (log.whole >= kTaps) {
          log.template Compute<true>(g, w, dy, step < kSteps, dw, dn);
        } else {
          log.template Compute<false>(g, w, dy, step < kSteps, dw, dn);
        }
        if (step >= kTaps - 1 && step < kSteps + kTaps - 1 && read < g.tokens) {
          StoreFloats<N>(x.dn + out, dn);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      sums[threadIdx.y][(i * kTaps + j) * kLanes + threadIdx.x] = dw[i][j];
    }
  }
  __syncthreads();
  const int64_t columns = static_cast<int64_t>(g.channels) * kTaps;
  const int thread = static_cast<int>(threadIdx.y) * kLanes + static_cast<int>(threadIdx.x);
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kLanes * N * kTaps;
  for (int at = thread; at < kLanes * N * kTaps && base + at < columns; at += kThreads) {
    const int from = at % (N * kTaps) * kLanes + at / (N * kTaps);
    float sum = 0;
#pragma unroll
    for (int walks = 0; walks < kWalks; ++walks) sum += sums[walks][from];
    partial[blockIdx.y * columns + base + at] = sum;
  }
}

// Any number of taps: a thread an element, c of every token in memory on the way back.
template <class T>
__device__ __forceinline__ float ConvolveAny(const Geometry& g, const T* n, const float* w,
                                             int64_t t, int channel) {
  const int reach = g.History(t) / g.dilation;
  float c = 0;
  for (int j = max(0, g.taps - 1 - reach); j < g.taps; ++j) {
    const int64_t from = t - static_cast<int64_t>(g.taps - 1 - j) * g.dilation;
    c += w[static_cast<int64_t>(channel) * g.taps + j] * ToFloat(n[from * g.channels + channel]);
  }
  return c;
}

template <class T>
__global__ void __launch_bounds__(kThreads) ForwardAny(Geometry g, ConvTensors<T> x) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= g.tokens * g.channels) return;
  const float c = ConvolveAny(g, x.n, x.w, at / g.channels, static_cast<int>(at % g.channels));
  const float more = x.addend == nullptr ? 0.0f : ToFloat(x.addend[at]);
  x.y[at] = FromFloat<T>(ToFloat(x.u[at]) + c / (1 + __expf(-c)) + more);
}

template <class T>
__global__ void __launch_bounds__(kThreads) SlopeAny(Geometry g, ConvTensors<T> x, float* slope) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= g.tokens * g.channels) return;
  const float c = ConvolveAny(g, x.n, x.w, at / g.channels, static_cast<int>(at % g.channels));
  const float sigma = 1 / (1 + __expf(-c));
  slope[at] = ToFloat(x.dy[at]) * sigma * (1 + c * (1 - sigma));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    BackwardAny(Geometry g, ConvTensors<T> x, const float* slope) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= g.tokens * g.channels) return;
  const int64_t t = at / g.channels;
  const int64_t channel = at % g.channels;
  float dn = 0;
  for (int j = 0; j < g.taps; ++j) {
    const int back = g.taps - 1 - j;
    const int64_t reader = t + static_cast<int64_t>(back) * g.dilation;
    if (reader >= g.tokens || g.History(reader) < back * g.dilation) continue;
    dn += x.w[channel * g.taps + j] * slope[reader * g.channels + channel];
  }
  x.dn[at] = FromFloat<T>(dn);
}

// partial [gridDim.y, C taps]: a thread a tap of a channel, over the tokens of a share.
constexpr int kShareTokens = 256;
template <class T>
__global__ void __launch_bounds__(kThreads)
    TapsAny(Geometry g, ConvTensors<T> x, const float* slope, float* partial) {
  const int64_t columns = static_cast<int64_t>(g.channels) * g.taps;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= columns) return;
  const int64_t channel = at / g.taps;
  const int back = g.taps - 1 - static_cast<int>(at % g.taps);
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kShareTokens;
  const int64_t end = min(begin + kShareTokens, g.tokens);
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    if (g.History(t) < back * g.dilation) continue;
    const int64_t from = t - static_cast<int64_t>(back) * g.dilation;
    sum += slope[t * g.channels + channel] * ToFloat(x.n[from * g.channels + channel]);
  }
  partial[blockIdx.y * columns + at] = sum;
}

// dw += Σ partial, in the order of the blocks: rows of threads share them.
__global__ void __launch_bounds__(kThreads)
    AddTaps(const float* partial, int blocks, int64_t columns, float* dw) {
  __shared__ float all[kWalks][kLanes];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kLanes + threadIdx.x;
  const int share = (blocks + kWalks - 1) / kWalks;
  const int begin = static_cast<int>(threadIdx.y) * share;
  const int end = min(blocks, begin + share);
  float sum = 0;
  if (at < columns) {
#pragma unroll 8
    for (int b = begin; b < end; ++b) sum += partial[b * columns + at];
  }
  all[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || at >= columns) return;
  for (int i = 1; i < kWalks; ++i) sum += all[i][threadIdx.x];
  dw[at] += sum;
}

Geometry MakeGeometry(const Tensor& n, const Tensor& w, int64_t dilation, int64_t length,
                      const Tensor& doc_start) {
  CHECK_EQ(w.dim(0), n.dim(1));
  CHECK_EQ(n.dim(0) % length, 0);
  CHECK_EQ(doc_start.elements(), n.dim(0));
  CHECK_LT(n.dim(0), int64_t{std::numeric_limits<int32_t>::max()});
  return {n.dim(0),
          static_cast<int>(n.dim(1)),
          static_cast<int>(w.dim(1)),
          static_cast<int>(dilation),
          static_cast<int>(length),
          Data<int32_t>(doc_start)};
}

// Blocks of the walking kernels.
dim3 WalkGrid(const Geometry& g, int columns) {
  const int64_t walks = CeilDiv(g.tokens, int64_t{kSteps} * g.dilation) * g.dilation;
  return dim3(static_cast<unsigned>(CeilDiv(g.channels, int64_t{kLanes} * columns)),
              static_cast<unsigned>(CeilDiv(walks, kWalks)));
}

// Calls f with the number of taps; false where the walking kernels have no such form.
template <class F>
bool WithTaps(int taps, F&& f) {
  static_assert(kMostTaps == 4);
  switch (taps) {
    case 1:
      f(std::integral_constant<int, 1>{});
      return true;
    case 2:
      f(std::integral_constant<int, 2>{});
      return true;
    case 3:
      f(std::integral_constant<int, 3>{});
      return true;
    case 4:
      f(std::integral_constant<int, 4>{});
      return true;
    default:
      return false;
  }
}

template <class T, int N>
void Forward(Stream& stream, const Geometry& g, const ConvTensors<T>& x) {
  const bool walked = WithTaps(g.taps, [&](auto taps) {
    constexpr int kTaps = decltype(taps)::value;
    const auto kernel =
        x.addend == nullptr ? WalkForward<T, N, kTaps, false> : WalkForward<T, N, kTaps, true>;
    Launch(stream, kernel, WalkGrid(g, N), dim3(kLanes, kWalks), 0, g, x);
  });
  if (walked) return;
  Launch(stream, ForwardAny<T>,
         dim3(static_cast<unsigned>(CeilDiv(g.tokens * g.channels, kThreads))), kThreads, 0, g, x);
}

// dn, and partial sums of dw: returns their tensor [blocks, C taps].
template <class T, int N>
Tensor Backward(Stream& stream, const Geometry& g, const ConvTensors<T>& x) {
  const int64_t columns = static_cast<int64_t>(g.channels) * g.taps;
  const auto make = [&](int64_t blocks) {
    return Tensor::Empty(stream, DType::kF32, {blocks, columns}, MemoryTag::kWorkspace);
  };
  Tensor partial;
  const bool walked = WithTaps(g.taps, [&](auto taps) {
    const dim3 grid = WalkGrid(g, N);
    partial = make(grid.y);
    Launch(stream, WalkBackward<T, N, decltype(taps)::value>, grid, dim3(kLanes, kWalks), 0, g, x,
           Data<float>(partial));
  });
  if (walked) return partial;
  partial = make(CeilDiv(g.tokens, kShareTokens));
  Tensor slope = Tensor::Empty(stream, DType::kF32, {g.tokens, g.channels}, MemoryTag::kWorkspace);
  const dim3 elements(static_cast<unsigned>(CeilDiv(g.tokens * g.channels, kThreads)));
  Launch(stream, SlopeAny<T>, elements, kThreads, 0, g, x, Data<float>(slope));
  Launch(stream, BackwardAny<T>, elements, kThreads, 0, g, x, Data<float>(slope));
  Launch(stream, TapsAny<T>,
         dim3(static_cast<unsigned>(CeilDiv(columns, kThreads)),
              static_cast<unsigned>(partial.dim(0))),
         kThreads, 0, g, x, Data<float>(slope), Data<float>(partial));
  return partial;
}

}  // namespace

void ShortConv(Stream& stream, const Tensor& n, const Tensor& u, const Tensor& addend,
               const Tensor& w, int64_t dilation, int64_t length, const Tensor& doc_start,
               Tensor& y) {
  const Geometry g = MakeGeometry(n, w, dilation, length, doc_start);
  DispatchActivation(n.dtype(), [&](auto zero) {
    using T = decltype(zero);
    ConvTensors<T> x = {};
    x.n = Data<T>(n);
    x.u = Data<T>(u);
    x.addend = Data<T>(addend);
    x.w = Data<float>(w);
    x.y = Data<T>(y);
    if (g.channels % 4 == 0) {
      Forward<T, 4>(stream, g, x);
    } else {
      Forward<T, 1>(stream, g, x);
    }
  });
}

void ShortConvGrad(Stream& stream, const Tensor& dy, const Tensor& n, const Tensor& w,
                   int64_t dilation, int64_t length, const Tensor& doc_start, Tensor& dn,
                   Tensor& dw) {
  const Geometry g = MakeGeometry(n, w, dilation, length, doc_start);
  Tensor partial;
  DispatchActivation(n.dtype(), [&](auto zero) {
    using T = decltype(zero);
    ConvTensors<T> x = {};
    x.n = Data<T>(n);
    x.dy = Data<T>(dy);
    x.w = Data<float>(w);
    x.dn = Data<T>(dn);
    partial = g.channels % 4 == 0 ? Backward<T, 4>(stream, g, x) : Backward<T, 1>(stream, g, x);
  });
  const int64_t columns = partial.dim(1);
  Launch(stream, AddTaps, dim3(static_cast<unsigned>(CeilDiv(columns, kLanes))),
         dim3(kLanes, kWalks), 0, Data<float>(partial), static_cast<int>(partial.dim(0)), columns,
         Data<float>(dw));
}

}  // namespace mneme::gpu
