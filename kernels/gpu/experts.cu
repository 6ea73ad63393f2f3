// The routed experts: the plan, the passes between the grouped products (grouped.cu,
// grouped_sm90.cu), and their order. Nothing is read by the host: buffers hold as many rows as the
// caller knows there to be, else R · K, and each pass asks the plan on the device.
//
// The plan is a counting sort that keeps order: a warp counts a run of slots, a block an expert
// adds up the runs, then each warp places its run. Tokens are spread to their pairs token by token,
// so that x is read once; y gathers its pairs in the order of k. In backward one pass over the
// pairs turns z = W_downᵀ dy into d gate_up, c · act and dweights.
//
// Roofline of the passes, 27B shape (T 32,768, K 6, D 2,560, F 1,536, bf16): combine 1.0 + 0.17 GB,
// backward's pass 0.6 + 1.2 read, 1.2 + 0.6 written: 0.35 and 1.1 ms at 3.3 TB/s, beside 5.9
// (forward) and 11.8 ms of products. Plan: 3.2 MB, three launches. Sweep (E 64, D 512, F 256): what
// the kernels of forward must move is 0.49 GB (feed_forward_sm90.cu) and 0.24 GB (combine), 0.24 ms
// at 3 TB/s; of backward 0.55 (SwiGLU's gradient in its product), 0.20 and 0.37 (gradients of
// weights), 0.44 (dx) and 0.24 GB (combine), 0.60 ms: memory decides both.
#include <algorithm>

#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/experts.h"

namespace mneme::gpu {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kPlanWarps = 4;
constexpr int kRun = 256;  // slots of a warp
constexpr int kScanThreads = 256;
constexpr int kPairWarps = 8;
constexpr int kRowThreads = 256;  // at most, of a token
// Up to this width backward gathers inside its products and folds SwiGLU's gradient into one: there
// memory decides. Beyond it the products do, and run faster on spread rows.
constexpr int64_t kFusedHidden = 1024;

// Plan ----------------------------------------------------------------------------------------

// counts[run, e]: slots of expert e in the run.
__global__ void __launch_bounds__(kPlanWarps* kWarp)
    CountKernel(const int32_t* ids, int64_t slots, int experts, int64_t runs, int32_t* counts) {
  extern __shared__ int32_t shared[];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const int64_t run = int64_t{blockIdx.x} * kPlanWarps + warp;
  if (run >= runs) return;
  int32_t* mine = shared + warp * experts;
  for (int e = lane; e < experts; e += kWarp) mine[e] = 0;
  __syncwarp();
  for (int i = lane; i < kRun; i += kWarp) {
    const int64_t slot = run * kRun + i;
    const int id = slot < slots ? ids[slot] : -1;
    if (id >= 0) atomicAdd(mine + id, 1);
  }
  __syncwarp();
  for (int e = lane; e < experts; e += kWarp) counts[run * experts + e] = mine[e];
}

// A block an expert: counts become the sums of earlier runs; totals[e] the sum of all.
__global__ void __launch_bounds__(kScanThreads)
    ScanKernel(int64_t runs, int experts, int32_t* counts, int32_t* totals) {
  __shared__ int32_t sums[kScanThreads];
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t each = (runs + kScanThreads - 1) / kScanThreads;
  const int64_t begin = min(thread * each, runs), end = min(begin + each, runs);
  int32_t sum = 0;
  for (int64_t r = begin; r < end; ++r) sum += counts[r * experts + blockIdx.x];
  sums[thread] = sum;
  __syncthreads();
  for (int reach = 1; reach < kScanThreads; reach *= 2) {
    const int32_t before = thread >= reach ? sums[thread - reach] : 0;
    __syncthreads();
    sums[thread] += before;
    __syncthreads();
  }
  int32_t earlier = sums[thread] - sum;
  for (int64_t r = begin; r < end; ++r) {
    const int32_t count = counts[r * experts + blockIdx.x];
    counts[r * experts + blockIdx.x] = earlier;
    earlier += count;
  }
  if (thread == kScanThreads - 1) totals[blockIdx.x] = sums[thread];
}

__global__ void __launch_bounds__(kPlanWarps* kWarp)
    PlaceKernel(const int32_t* ids, int64_t slots, int experts, int64_t runs, const int32_t* counts,
                const int32_t* totals, int64_t* offsets, int64_t capacity, int32_t* order,
                int32_t* place) {
  extern __shared__ int32_t shared[];
  int32_t* starts = shared + kPlanWarps * experts;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (warp == 0) {
    int32_t base = 0;
    for (int first = 0; first < experts; first += kWarp) {
      const int32_t total = first + lane < experts ? totals[first + lane] : 0;
      int32_t through = total;
      for (int reach = 1; reach < kWarp; reach *= 2) {
        const int32_t before = __shfl_up_sync(kAll, through, reach);
        if (lane >= reach) through += before;
      }
      if (first + lane < experts) starts[first + lane] = base + through - total;
      base += __shfl_sync(kAll, through, kWarp - 1);
    }
    if (blockIdx.x == 0 && lane == 0) offsets[experts] = base;
  }
  __syncthreads();
  if (blockIdx.x == 0)
    for (int e = static_cast<int>(threadIdx.x); e < experts; e += kPlanWarps * kWarp)
      offsets[e] = starts[e];
  const int64_t run = int64_t{blockIdx.x} * kPlanWarps + warp;
  if (run >= runs) return;
  int32_t* next = shared + warp * experts;
  for (int e = lane; e < experts; e += kWarp) next[e] = starts[e] + counts[run * experts + e];
  __syncwarp();
  for (int i = lane; i < kRun; i += kWarp) {
    const int64_t slot = run * kRun + i;
    const int id = slot < slots ? ids[slot] : -1;
    const unsigned same = __match_any_sync(kAll, id);
    const int rank = __popc(same & ((1u << lane) - 1));
    const int32_t pair = id >= 0 ? next[id] + rank : -1;
    __syncwarp();
    if (id >= 0 && rank == 0) next[id] += __popc(same);
    __syncwarp();
    if (slot < slots) place[slot] = pair;
    if (pair >= capacity) __trap();
    if (pair >= 0) order[pair] = static_cast<int32_t>(slot);
  }
}

void MakePlan(Stream& stream, const Tensor& experts, int64_t count, ExpertsSaved& saved) {
  const int64_t slots = experts.elements(), runs = std::max<int64_t>(1, CeilDiv(slots, kRun));
  const int64_t most = saved.most_pairs >= 0 ? std::min(saved.most_pairs, slots) : slots;
  saved.offsets = Tensor::Empty(stream, DType::kI64, {count + 1});
  saved.order = Tensor::Empty(stream, DType::kI32, {std::max<int64_t>(1, most)});
  saved.place = Tensor::Empty(stream, DType::kI32, experts.shape());
  Tensor counts = Tensor::Empty(stream, DType::kI32, {runs, count}, MemoryTag::kWorkspace);
  Tensor totals = Tensor::Empty(stream, DType::kI32, {count}, MemoryTag::kWorkspace);
  const auto width = static_cast<int>(count);
  const auto* ids = Data<int32_t>(experts);
  const dim3 grid(static_cast<unsigned>(CeilDiv(runs, kPlanWarps)));
  const auto line = static_cast<size_t>(count) * sizeof(int32_t);
  Launch(stream, CountKernel, grid, kPlanWarps * kWarp, kPlanWarps * line, ids, slots, width, runs,
         Data<int32_t>(counts));
  Launch(stream, ScanKernel, dim3(static_cast<unsigned>(count)), kScanThreads, 0, runs, width,
         Data<int32_t>(counts), Data<int32_t>(totals));
  Launch(stream, PlaceKernel, grid, kPlanWarps * kWarp, (kPlanWarps + 1) * line, ids, slots, width,
         runs, Data<int32_t>(counts), Data<int32_t>(totals), Data<int64_t>(saved.offsets),
         saved.order.elements(), Data<int32_t>(saved.order), Data<int32_t>(saved.place));
}

// Passes --------------------------------------------------------------------------------------

// A block a token: rows[place[t, k]] = x[t].
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads)
    SpreadKernel(const T* x, const int32_t* place, int top_k, int64_t width, T* rows) {
  const int64_t t = blockIdx.x;
  for (int64_t d = int64_t{threadIdx.x} * N; d < width; d += int64_t{blockDim.x} * N) {
    const auto value = *reinterpret_cast<const Vec<T, N>*>(x + t * width + d);
    for (int k = 0; k < top_k; ++k) {
      const int64_t pair = place[t * top_k + k];
      if (pair >= 0) *reinterpret_cast<Vec<T, N>*>(rows + pair * width + d) = value;
    }
  }
}

// A block a token: y[t] = Σ_k weight[t, k] · rows[place[t, k]] in order of k, + addend[t]; no
// weights: all 1; no addend: nothing.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads)
    CombineKernel(const T* rows, const float* weights, const int32_t* place, const T* addend,
                  int top_k, int64_t width, T* y) {
  const int64_t t = blockIdx.x;
  for (int64_t d = int64_t{threadIdx.x} * N; d < width; d += int64_t{blockDim.x} * N) {
    float sum[N] = {};
#pragma unroll 4
    for (int k = 0; k < top_k; ++k) {
      const int64_t pair = place[t * top_k + k];
      if (pair < 0) continue;
      const float weight = weights ? weights[t * top_k + k] : 1.0f;
      float value[N];
      LoadFloats<N>(rows + pair * width + d, value);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += weight * value[i];
    }
    if (addend != nullptr) {
      float value[N];
      LoadFloats<N>(addend + t * width + d, value);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += value[i];
    }
    StoreFloats<N>(y + t * width + d, sum);
  }
}

// A warp a slot. From z, gate_up and the weight c of a pair: dweight = ⟨z, act⟩; d gate_up from
// d act = c z; z becomes c · act, which the gradient of W_down needs.
template <class T, int N>
__global__ void __launch_bounds__(kPairWarps* kWarp)
    PairGradKernel(const T* gate_up, const float* weights, const int32_t* place, int64_t slots,
                   int64_t width, T* z, T* d_gate_up, float* dweights) {
  const int64_t slot = int64_t{blockIdx.x} * kPairWarps + threadIdx.x / kWarp;
  if (slot >= slots) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t pair = place[slot];
  if (pair < 0) {
    if (lane == 0) dweights[slot] = 0;
    return;
  }
  const float weight = weights[slot];
  const T* gates = gate_up + pair * 2 * width;
  T* d_gates = d_gate_up + pair * 2 * width;
  T* zs = z + pair * width;
  float inner = 0;
  for (int64_t f = lane * N; f < width; f += kWarp * N) {
    float gate[N], up[N], dz[N], act[N];
    LoadFloats<N>(gates + f, gate);
    LoadFloats<N>(gates + width + f, up);
    LoadFloats<N>(zs + f, dz);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float s = 1.0f / (1.0f + __expf(-gate[i]));
      const float silu = gate[i] * s;
      const float d = weight * dz[i];
      act[i] = silu * up[i];
      inner += dz[i] * act[i];
      act[i] *= weight;
      gate[i] = d * up[i] * (s + silu * (1.0f - s));
      up[i] = d * silu;
    }
    StoreFloats<N>(d_gates + f, gate);
    StoreFloats<N>(d_gates + width + f, up);
    StoreFloats<N>(zs + f, act);
  }
  inner = WarpReduce(inner);
  if (lane == 0) dweights[slot] = inner;
}

// dweights of a slot: its pair's parts of ⟨z, act⟩, or 0 where it has no pair. Zeroes `turns` too:
// the gradients of weights, which come next, need that.
__global__ void __launch_bounds__(kRowThreads)
    SumInnerKernel(const float* inner, const int32_t* place, int64_t slots, int64_t parts,
                   int64_t capacity, float* dweights, int64_t turn_count, int32_t* turns) {
  const int64_t slot = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  for (int64_t i = slot; i < turn_count; i += int64_t{gridDim.x} * kRowThreads) turns[i] = 0;
  if (slot >= slots) return;
  const int64_t pair = place[slot];
  float sum = 0;
  for (int64_t i = 0; pair >= 0 && i < parts; ++i) sum += inner[i * capacity + pair];
  dweights[slot] = sum;
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Calls f(constant N): how many T move at once, where widths and addresses allow.
template <class T, class F>
void DispatchVector(int64_t width, std::initializer_list<const void*> addresses, F&& f) {
  const bool whole =
      width % kVec<T> == 0 && std::all_of(addresses.begin(), addresses.end(), Aligned);
  if (whole) return f(std::integral_constant<int, kVec<T>>{});
  f(std::integral_constant<int, 1>{});
}

// Threads for a token's row of `vectors`: few idle ones in the last turn.
dim3 RowThreads(int64_t vectors) {
  const int64_t turns = std::max<int64_t>(1, CeilDiv(vectors, kRowThreads));
  return dim3(static_cast<unsigned>(CeilDiv(CeilDiv(vectors, turns), kWarp) * kWarp));
}

void Spread(Stream& stream, const Tensor& x, const Tensor& place, Tensor& rows) {
  const int64_t width = x.dim(1);
  DispatchActivation(x.dtype(), [&](auto real) {
    using T = decltype(real);
    DispatchVector<T>(width, {x.raw(), rows.raw()}, [&](auto n) {
      Launch(stream, SpreadKernel<T, n()>, dim3(static_cast<unsigned>(x.dim(0))),
             RowThreads(width / n()), 0, Data<T>(x), Data<int32_t>(place),
             static_cast<int>(place.dim(1)), width, Data<T>(rows));
    });
  });
}

void Combine(Stream& stream, const Tensor& rows, const Tensor& weights, const Tensor& place,
             const Tensor& addend, Tensor& y) {
  const int64_t width = y.dim(1);
  DispatchActivation(y.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* other = Data<T>(addend);
    DispatchVector<T>(width, {y.raw(), rows.raw(), other}, [&](auto n) {
      Launch(stream, CombineKernel<T, n()>, dim3(static_cast<unsigned>(y.dim(0))),
             RowThreads(width / n()), 0, Data<T>(rows), Data<float>(weights), Data<int32_t>(place),
             other, static_cast<int>(place.dim(1)), width, Data<T>(y));
    });
  });
}

void PairGrad(Stream& stream, const Tensor& gate_up, const Tensor& weights, const Tensor& place,
              Tensor& z, Tensor& d_gate_up, Tensor& dweights) {
  const int64_t width = z.dim(1), slots = place.elements();
  DispatchActivation(z.dtype(), [&](auto real) {
    using T = decltype(real);
    DispatchVector<T>(width, {gate_up.raw(), z.raw(), d_gate_up.raw()}, [&](auto n) {
      Launch(stream, PairGradKernel<T, n()>,
             dim3(static_cast<unsigned>(CeilDiv(slots, kPairWarps))), kPairWarps * kWarp, 0,
             Data<T>(gate_up), Data<float>(weights), Data<int32_t>(place), slots, width, Data<T>(z),
             Data<T>(d_gate_up), Data<float>(dweights));
    });
  });
}

Tensor Workspace(Stream& stream, DType dtype, int64_t rows, int64_t width) {
  return Tensor::Empty(stream, dtype, {rows, width}, MemoryTag::kWorkspace);
}

// z's product and PairGrad in one; turns become zeros.
void DownGrad(Stream& stream, const Tensor& dy, const Tensor& weights, const Tensor& w_down,
              const ExpertsSaved& saved, Tensor& d_gate_up, Tensor& act, Tensor& dweights,
              Tensor& turns) {
  const int64_t slots = saved.place.elements(), capacity = saved.order.elements();
  const int64_t parts = CeilDiv(act.dim(1), kInnerColumns);
  Tensor inner = Workspace(stream, DType::kF32, parts, capacity);
  GroupedDownGrad(stream, dy, {&saved.order, weights.dim(1)}, w_down, saved.offsets, saved.gate_up,
                  weights, d_gate_up, act, inner);
  Launch(stream, SumInnerKernel, dim3(static_cast<unsigned>(CeilDiv(slots, kRowThreads))),
         kRowThreads, 0, Data<float>(inner), Data<int32_t>(saved.place), slots, parts, capacity,
         Data<float>(dweights), turns.elements(), Data<int32_t>(turns));
}

}  // namespace

void Experts(Stream& stream, const Tensor& x, const Tensor& experts, const Tensor& weights,
             const Tensor& w_gate_up, const Tensor& w_down, const Tensor& addend, Tensor& y,
             ExpertsSaved& saved) {
  const int64_t count = w_gate_up.dim(0), width = w_down.dim(2), hidden = x.dim(1);
  CHECK_EQ(w_gate_up.shape(), (Shape{count, 2 * width, hidden}));
  CHECK_EQ(w_down.shape(), (Shape{count, hidden, width}));
  CHECK_EQ(weights.shape(), experts.shape());
  MakePlan(stream, experts, count, saved);
  const int64_t capacity = saved.order.elements();
  saved.gate_up = Tensor::Empty(stream, x.dtype(), {capacity, 2 * width});
  Tensor rows = Workspace(stream, x.dtype(), capacity, hidden);
  const bool gathers = GroupedGathers(stream, {&w_gate_up, &w_down}, {&x});
  const Gather by_plan{&saved.order, experts.dim(1)};
  if (gathers && width <= kFeedForwardWidth && count <= kFeedForwardGroups) {
    GroupedFeedForward(stream, x, by_plan, w_gate_up, w_down, saved.offsets, saved.gate_up, rows);
  } else {
    Tensor act = Workspace(stream, x.dtype(), capacity, width);
    if (!gathers) Spread(stream, x, saved.place, rows);
    GroupedSwiGlu(stream, gathers ? x : rows, gathers ? by_plan : Gather{}, w_gate_up,
                  saved.offsets, saved.gate_up, act);
    GroupedMatmul(stream, act, w_down, Trans::kYes, saved.offsets, rows);
  }
  Combine(stream, rows, weights, saved.place, addend, y);
}

void ExpertsGrad(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weights,
                 const Tensor& w_gate_up, const Tensor& w_down, const ExpertsSaved& saved,
                 Tensor& dx, Tensor& dweights, Tensor& d_w_gate_up, Tensor& d_w_down) {
  const int64_t width = w_down.dim(2), hidden = x.dim(1), capacity = saved.order.elements();
  const Tensor& offsets = saved.offsets;
  Tensor rows = Workspace(stream, x.dtype(), capacity, hidden);
  Tensor d_gate_up = Workspace(stream, x.dtype(), capacity, 2 * width);
  Tensor z = Workspace(stream, x.dtype(), capacity, width);
  if (hidden <= kFusedHidden &&
      GroupedGathers(stream, {&w_gate_up, &w_down, &d_w_gate_up, &d_w_down}, {&x, &dy})) {
    const Gather by_plan{&saved.order, weights.dim(1)};
    const int64_t of_down = GroupedTurns(d_w_down), of_up = GroupedTurns(d_w_gate_up);
    Tensor turns = Workspace(stream, DType::kI32, 1, of_down + of_up).Flat(0, of_down + of_up);
    Tensor turns_down = turns.Flat(0, of_down), turns_up = turns.Flat(of_down, of_down + of_up);
    DownGrad(stream, dy, weights, w_down, saved, d_gate_up, z, dweights, turns);
    GroupedWeightGrad(stream, dy, by_plan, z, {}, offsets, turns_down, d_w_down);
    GroupedWeightGrad(stream, d_gate_up, {}, x, by_plan, offsets, turns_up, d_w_gate_up);
  } else {
    Spread(stream, dy, saved.place, rows);
    GroupedMatmul(stream, rows, w_down, Trans::kNo, offsets, z);
    PairGrad(stream, saved.gate_up, weights, saved.place, z, d_gate_up, dweights);
    GroupedMatmulWeightGrad(stream, rows, z, offsets, d_w_down);
    Spread(stream, x, saved.place, rows);
    GroupedMatmulWeightGrad(stream, d_gate_up, rows, offsets, d_w_gate_up);
  }
  GroupedMatmul(stream, d_gate_up, w_gate_up, Trans::kNo, offsets, rows);
  Combine(stream, rows, {}, saved.place, {}, dx);
}

}  // namespace mneme::gpu
