// The router: scores, choice, weights, loads; the balance loss; their gradients. A warp takes a
// token, its lanes the experts lane, lane + 32, ...; the choice is a warp-wide maximum of
// order-keeping integers, top_k times. Loads are integer sums, so their order is nothing. The
// balance loss is summed token by token in double, in an order that the shape alone fixes.
//
// Roofline, 27B shape (T 32,768, E 72, K 6, fp32): logits in, scores out, choice and weights: 21
// MB, 6 us at 3.3 TB/s; the gradient reads scores and writes bf16: 15 MB, 5 us. Measured
// on one H100 with cold caches: 22 us (E 64), gradient 25 us, balance loss 28 us in three launches:
// what they wait for is latency.
#include <algorithm>

#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/limits.h"
#include "kernels/ops/route.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAll = 0xffffffffu;
constexpr float kWeightEps = 1e-20f;

// Options as kernels take them.
struct Choice {
  int top_k, groups, groups_kept;
  bool softmax, normalize;
  float scale;
};

Choice ChoiceOf(const RouteOptions& o) {
  return {static_cast<int>(o.top_k),
          static_cast<int>(o.groups),
          static_cast<int>(o.groups_kept),
          o.softmax,
          o.normalize,
          static_cast<float>(o.scale)};
}

__device__ int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ int64_t FirstToken() { return (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp; }
__device__ int64_t TokenStep() { return int64_t{gridDim.x} * kWarps; }

// Integers in the order of the numbers. 0 is below all: what may not be chosen; a NaN comes next.
__device__ unsigned OrderKey(float x) {
  if (isnan(x)) return 1;
  const unsigned bits = __float_as_uint(x + 0.0f);  // −0 equals 0
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

// The lowest index of the largest key; its key becomes 0. Index v · 32 + lane stands at key[v].
template <int V>
__device__ int TakeBest(unsigned (&key)[V]) {
  unsigned best = key[0];
#pragma unroll
  for (int v = 1; v < V; ++v) best = max(best, key[v]);
  best = __reduce_max_sync(kAll, best);
  unsigned index = ~0u;
#pragma unroll
  for (int v = V - 1; v >= 0; --v)
    if (key[v] == best) index = static_cast<unsigned>(v * kWarp + Lane());
  index = __reduce_min_sync(kAll, index);
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (index == static_cast<unsigned>(v * kWarp + Lane())) key[v] = 0;
  return static_cast<int>(index);
}

// Clears the keys of experts outside the best groups. `biased`: all experts, in shared memory.
template <int V>
__device__ void KeepBestGroups(const Choice& o, int experts, const float* biased,
                               unsigned (&key)[V]) {
  const int size = experts / o.groups;
  unsigned group_key[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int g = v * kWarp + Lane();
    group_key[v] = 0;
    if (g >= o.groups) continue;
    float first = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const float x = biased[e];
      if (x > first) {
        second = first;
        first = x;
      } else if (x > second) {
        second = x;
      }
    }
    group_key[v] = OrderKey(o.softmax || size == 1 ? first : first + second);
  }
  bool kept[V] = {};
  for (int i = 0; i < o.groups_kept; ++i) {
    const int g = TakeBest<V>(group_key);
#pragma unroll
    for (int v = 0; v < V; ++v) kept[v] |= (v * kWarp + Lane()) / size == g;
  }
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (!kept[v]) key[v] = 0;
}

// Scores of one token from its logits; absent experts 0.
template <int V>
__device__ void Scores(bool softmax, int experts, float (&x)[V]) {
  if (!softmax) {
#pragma unroll
    for (int v = 0; v < V; ++v)
      x[v] = v * kWarp + Lane() < experts ? 1.0f / (1.0f + expf(-x[v])) : 0.0f;
    return;
  }
  float top = -INFINITY;
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (v * kWarp + Lane() < experts) top = fmaxf(top, x[v]);
  top = WarpReduce(top, Larger{});
  float sum = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    x[v] = v * kWarp + Lane() < experts ? expf(x[v] - top) : 0.0f;
    sum += x[v];
  }
  sum = WarpReduce(sum);
#pragma unroll
  for (int v = 0; v < V; ++v) x[v] /= sum;
}

// Σ over the first top_k lanes, in their order.
__device__ float SumOfChosen(float x, int top_k) {
  float sum = 0;
  for (int k = 0; k < top_k; ++k) sum += __shfl_sync(kAll, x, k);
  return sum;
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    RouteKernel(Choice o, int64_t tokens, int experts, const float* logits, const float* bias,
                float* scores, int32_t* chosen, float* weights, unsigned long long* load) {
  extern __shared__ float shared[];
  float* row = shared + threadIdx.x / kWarp * experts;  // of this warp
  int* counts = reinterpret_cast<int*>(shared + kWarps * experts);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) counts[e] = 0;
  __syncthreads();
  for (int64_t t = FirstToken(); t < tokens; t += TokenStep()) {
    float x[V];
    unsigned key[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int e = v * kWarp + Lane();
      x[v] = e < experts ? logits[t * experts + e] : 0.0f;
    }
    Scores<V>(o.softmax, experts, x);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int e = v * kWarp + Lane();
      key[v] = 0;
      if (e >= experts) continue;
      scores[t * experts + e] = x[v];
      const float biased = x[v] + bias[e];
      key[v] = OrderKey(biased);
      row[e] = biased;
    }
    __syncwarp();
    if (o.groups != o.groups_kept) KeepBestGroups<V>(o, experts, row, key);
    __syncwarp();
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (v * kWarp + Lane() < experts) row[v * kWarp + Lane()] = x[v];
    int mine = 0;
    for (int k = 0; k < o.top_k; ++k) {
      const int best = TakeBest<V>(key);
      if (Lane() == k) mine = best;
    }
    __syncwarp();
    const float score = row[mine];
    float factor = o.scale;
    if (o.normalize) factor /= SumOfChosen(score, o.top_k) + kWeightEps;
    if (Lane() < o.top_k) {
      chosen[t * o.top_k + Lane()] = mine;
      weights[t * o.top_k + Lane()] = score * factor;
      atomicAdd(counts + mine, 1);
    }
    __syncwarp();
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads)
    if (counts[e] > 0) atomicAdd(load + e, static_cast<unsigned long long>(counts[e]));
}

// A block a row: how often each expert was chosen, times E / (K · length).
__global__ void __launch_bounds__(1024)
    FrequencyKernel(int64_t slots, int experts, float share, const int32_t* chosen, float* f) {
  extern __shared__ int counts_of_row[];
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x))
    counts_of_row[e] = 0;
  __syncthreads();
  const int32_t* ids = chosen + blockIdx.x * slots;
  for (int64_t i = threadIdx.x; i < slots; i += blockDim.x) atomicAdd(counts_of_row + ids[i], 1);
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x))
    f[blockIdx.x * int64_t{experts} + e] = static_cast<float>(counts_of_row[e]) * share;
}

// Σ_i f_i s_i / Σ_i s_i of each token, summed over the block's tokens.
__global__ void __launch_bounds__(kThreads)
    BalanceKernel(int64_t tokens, int64_t length, int experts, const float* scores, const float* f,
                  double* parts) {
  double sum = 0;
  for (int64_t t = FirstToken(); t < tokens; t += TokenStep()) {
    const float* ft = f + t / length * experts;
    float total = 0, weighted = 0;
    for (int e = Lane(); e < experts; e += kWarp) {
      const float s = scores[t * experts + e];
      total += s;
      weighted += ft[e] * s;
    }
    total = WarpReduce(total);
    weighted = WarpReduce(weighted);
    sum += static_cast<double>(weighted) / static_cast<double>(total);
  }
  sum = BlockReduce(Lane() == 0 ? sum : 0.0);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    BalanceSumKernel(int blocks, double length, const double* parts, const float* scale,
                     float* loss) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < blocks; i += kThreads) sum += parts[i];
  sum = BlockReduce(sum);
  if (threadIdx.x == 0) loss[0] += static_cast<float>(scale[0] * sum / length);
}

// d += balance · (f_i − Σ_j f_j s_j / Z) / Z, Z the sum of the scores.
template <int V>
__device__ void AddBalanceGrad(const float (&s)[V], const float* f, int experts, float balance,
                               float (&d)[V]) {
  float total = 0, weighted = 0, frequency[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int e = v * kWarp + Lane();
    frequency[v] = e < experts ? f[e] : 0.0f;
    total += s[v];
    weighted += frequency[v] * s[v];
  }
  total = WarpReduce(total);
  weighted = WarpReduce(weighted);
#pragma unroll
  for (int v = 0; v < V; ++v) d[v] += balance * (frequency[v] - weighted / total) / total;
}

// What the weights' gradients give to the scores of the chosen, in `row` [experts] of shared
// memory; 0 elsewhere. One warp.
__device__ void ChosenGrad(const Choice& o, int64_t t, int experts, const float* scores,
                           const int32_t* chosen, const float* weights, const float* dweights,
                           float* row) {
  for (int e = Lane(); e < experts; e += kWarp) row[e] = 0;
  const bool holds = Lane() < o.top_k;
  const int64_t slot = t * o.top_k + Lane();
  const int expert = holds ? chosen[slot] : 0;
  const float dweight = holds ? dweights[slot] : 0.0f;
  float sum = 1, inner = 0;
  if (o.normalize) {
    sum = WarpReduce(holds ? scores[t * experts + expert] : 0.0f) + kWeightEps;
    inner = WarpReduce(holds ? dweight * weights[slot] : 0.0f);
  }
  __syncwarp();
  if (holds) row[expert] = (o.scale * dweight - inner) / sum;
  __syncwarp();
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    RouteGradKernel(Choice o, int64_t tokens, int64_t length, int experts, const float* scores,
                    const int32_t* chosen, const float* weights, const float* dweights,
                    const float* f, const float* balance_scale, T* dlogits) {
  extern __shared__ float shared[];
  float* row = shared + threadIdx.x / kWarp * experts;  // of this warp
  const float balance = f ? balance_scale[0] / static_cast<float>(length) : 0.0f;
  for (int64_t t = FirstToken(); t < tokens; t += TokenStep()) {
    float s[V], d[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int e = v * kWarp + Lane();
      s[v] = e < experts ? scores[t * experts + e] : 0.0f;
    }
    ChosenGrad(o, t, experts, scores, chosen, weights, dweights, row);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int e = v * kWarp + Lane();
      d[v] = e < experts ? row[e] : 0.0f;
    }
    if (f != nullptr) AddBalanceGrad<V>(s, f + t / length * experts, experts, balance, d);
    float inner = 0;
    if (o.softmax) {
#pragma unroll
      for (int v = 0; v < V; ++v) inner += d[v] * s[v];
      inner = WarpReduce(inner);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int e = v * kWarp + Lane();
      const float slope = o.softmax ? s[v] * (d[v] - inner) : d[v] * s[v] * (1.0f - s[v]);
      if (e < experts) dlogits[t * experts + e] = FromFloat<T>(slope);
    }
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kThreads)
    BiasKernel(int experts, float speed, const int64_t* load, const double* apply, float* bias) {
  if (apply[0] == 0) return;
  long long total = 0;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) total += load[e];
  total = BlockReduce(total);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) {
    // mean > load, without leaving the integers: total > load · count.
    const long long difference = total - load[e] * experts;
    bias[e] += speed * static_cast<float>((difference > 0) - (difference < 0));
  }
}

// Calls f(constant V) with V · 32 >= experts.
template <class F>
void DispatchExperts(int64_t experts, F&& f) {
  CHECK_LE(experts, int64_t{kMaxExperts});
  const int64_t need = CeilDiv(experts, kWarp);
  if (need <= 1) return f(std::integral_constant<int, 1>{});
  if (need <= 2) return f(std::integral_constant<int, 2>{});
  if (need <= 3) return f(std::integral_constant<int, 3>{});
  if (need <= 4) return f(std::integral_constant<int, 4>{});
  if (need <= 8) return f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, kMaxExperts / kWarp>{});
}

dim3 Blocks(Stream& stream, int64_t tokens) {
  const int64_t most = int64_t{QueueOf(stream).multiprocessors} * 8;
  return dim3(static_cast<unsigned>(std::min(CeilDiv(tokens, kWarps), most)));
}

}  // namespace

void Route(Stream& stream, const RouteOptions& options, const Tensor& logits, const Tensor& bias,
           Tensor& scores, Tensor& experts, Tensor& weights, Tensor& load) {
  const int64_t tokens = logits.dim(0), count = logits.dim(1);
  CHECK_EQ(count % options.groups, 0);
  CHECK_LE(options.top_k, count / options.groups * options.groups_kept);
  CHECK_LE(options.top_k, int64_t{kMostChosen});
  CHECK_EQ(experts.shape(), (Shape{tokens, options.top_k}));
  CHECK_EQ(load.elements(), count);
  const size_t shared = static_cast<size_t>((kWarps + 1) * count) * sizeof(float);
  DispatchExperts(count, [&](auto lanes) {
    Launch(stream, RouteKernel<lanes()>, Blocks(stream, tokens), kThreads, shared,
           ChoiceOf(options), tokens, static_cast<int>(count), Data<float>(logits),
           Data<float>(bias), Data<float>(scores), Data<int32_t>(experts), Data<float>(weights),
           reinterpret_cast<unsigned long long*>(Data<int64_t>(load)));
  });
}

void BalanceLoss(Stream& stream, const RouteOptions& options, int64_t length, const Tensor& scores,
                 const Tensor& experts, const Tensor& scale, Tensor& f, Tensor& loss) {
  const int64_t tokens = scores.dim(0), count = scores.dim(1), rows = tokens / length;
  CHECK_EQ(rows * length, tokens);
  CHECK_EQ(f.shape(), (Shape{rows, count}));
  const auto width = static_cast<int>(count);
  const int64_t slots = options.top_k * length;
  const double share = static_cast<double>(count) / static_cast<double>(slots);
  Launch(stream, FrequencyKernel, dim3(static_cast<unsigned>(rows)), 1024,
         static_cast<size_t>(count) * sizeof(int), slots, width, static_cast<float>(share),
         Data<int32_t>(experts), Data<float>(f));
  const dim3 blocks = Blocks(stream, tokens);
  Tensor parts = Tensor::Empty(stream, DType::kF64, {blocks.x}, MemoryTag::kWorkspace);
  Launch(stream, BalanceKernel, blocks, kThreads, 0, tokens, length, width, Data<float>(scores),
         Data<float>(f), Data<double>(parts));
  Launch(stream, BalanceSumKernel, 1, kThreads, 0, static_cast<int>(blocks.x),
         static_cast<double>(length), Data<double>(parts), Data<float>(scale), Data<float>(loss));
}

void RouteGrad(Stream& stream, const RouteOptions& options, int64_t length, const Tensor& scores,
               const Tensor& experts, const Tensor& weights, const Tensor& dweights,
               const Tensor& balance_f, const Tensor& balance_scale, Tensor& dlogits) {
  const int64_t tokens = scores.dim(0), count = scores.dim(1);
  const float* f = Data<float>(balance_f);
  const float* scale = f ? Data<float>(balance_scale) : nullptr;
  DispatchActivation(dlogits.dtype(), [&](auto real) {
    using T = decltype(real);
    DispatchExperts(count, [&](auto lanes) {
      Launch(stream, RouteGradKernel<T, lanes()>, Blocks(stream, tokens), kThreads,
             static_cast<size_t>(kWarps * count) * sizeof(float), ChoiceOf(options), tokens, length,
             static_cast<int>(count), Data<float>(scores), Data<int32_t>(experts),
             Data<float>(weights), Data<float>(dweights), f, scale, Data<T>(dlogits));
    });
  });
}

void BiasUpdate(Stream& stream, const Tensor& load, double speed, const Tensor& apply,
                Tensor& bias) {
  Launch(stream, BiasKernel, 1, kThreads, 0, static_cast<int>(load.elements()),
         static_cast<float>(speed), Data<int64_t>(load), Data<double>(apply), Data<float>(bias));
}

}  // namespace mneme::gpu
