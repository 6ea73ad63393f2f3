// Attention forward on Hopper: bulk copies into swizzled tiles, products by warpgroups, softmax of
// one tile under the products of the next.
//
// A block stays on its multiprocessor and takes tiles of 128 or 192 queries of one head off a
// counter, those with most to do first, a few heads at a time so that their keys and values stay in
// L2. One warp loads: a tile's queries, then keys and values of 128 positions at a time, from the
// diagonal back to the first that any of its queries may see; the rotary part comes straight from
// k_pe, nothing is packed. Two or three warpgroups of 64 queries each keep scores and sums in
// registers; they take turns at the tensor cores, so that one's softmax runs under the others'
// products.
//
// Roofline, 27B shape (4 rows of 4,096, 32 heads of 128 + 64 / 128): 0.69 TFLOP, 0.7 ms at 989
// TFLOP/s; 0.47 GB to read and write, 0.14 ms. Sweep shape (16 rows of 2,048, 8 heads of 64 + 32 /
// 64): 0.086 TFLOP, 0.09 ms, and 285 M exponentials, 0.08 ms at 16 a clock and multiprocessor: two
// warpgroups cannot keep both units busy, three come closer. On an H100 whose large matmuls reach
// 786 TFLOP/s: 27B 663 (1.04 ms; cuDNN 614 without the packing that it needs), sweep 470 (0.183 ms;
// cuDNN 375).
#include "kernels/gpu/attention.h"
#include "kernels/gpu/device/attention_sm90.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;

constexpr int kStages = 2;               // tiles of keys, and of values, in flight
constexpr int kKeys = 128;               // of a tile
constexpr int kBox = kKeys * kLine;      // of keys and values
constexpr int64_t kResident = 24 << 20;  // bytes of keys and values that L2 is asked to hold

// Warpgroups that compute, 64 queries each: as many as registers allow.
template <class W>
constexpr int kGroups = W::kValue > 64 ? 2 : 3;
template <class W>
constexpr int kQueries = 64 * kGroups<W>;
template <class W>
constexpr int kQueryBox = kQueries<W>* kLine;
template <class W>
constexpr int kBlock = 128 * (1 + kGroups<W>);

template <class W>
constexpr int kShared = kQueryBox<W>* W::kKeyBoxes + kBox* kStages* W::kBoxes;

// What the kernel is told beside the maps.
struct Job {
  int64_t length;
  int64_t heads;
  int32_t tiles;  // of queries in a sample
  int32_t pairs;  // samples · heads
  int32_t group;  // pairs that run side by side
  float scale;
  const int32_t* start;  // null: no documents
  int32_t* counter;
  bf16* out;
  float* lse;
};

// Tiles from the last to the first: those with most to do begin.
template <class W>
__device__ Work WorkOf(const Job& job, int index) {
  if (index >= job.tiles * job.pairs) return {-1, 0, 0};
  Work work = WorkAt(index, job.tiles, job.pairs, job.group);
  work.tile = job.tiles - 1 - work.tile;
  if (job.start != nullptr) {
    const int64_t row = work.pair / job.heads;
    work.end = job.start[row * job.length + int64_t{work.tile} * kQueries<W>] / kKeys;
  }
  return work;
}

// The last tile of keys that a query of the block sees.
template <class W>
__device__ int LastKeys(const Job& job, const Work& work) {
  const int end = min((work.tile + 1) * kQueries<W>, static_cast<int>(job.length));
  return (end - 1) / kKeys;
}

struct Barriers {
  uint64_t q_full, q_empty;
  uint64_t k_full[kStages], k_empty[kStages];
  uint64_t v_full[kStages], v_empty[kStages];
  uint64_t work_full[kStages], work_empty[kStages];
};

template <class W>
__device__ void Load(const Job& job, const CUtensorMap& q_map, const CUtensorMap& kv_map,
                     const CUtensorMap& pe_map, Barriers& bars, Work (&works)[kStages], uint32_t q,
                     uint32_t k, uint32_t v) {
  Ring<kStages> at, kv;
  uint32_t q_phase = 0;
  for (int index = blockIdx.x;; index = gridDim.x + atomicAdd(job.counter, 1)) {
    const Work work = WorkOf<W>(job, index);
    Wait(bars.work_empty[at.stage], at.phase ^ 1);
    works[at.stage] = work;
    BarrierArrive(SharedAddress(&bars.work_full[at.stage]));
    at.Next();
    if (work.tile < 0) return;
    const int row = work.pair / static_cast<int>(job.heads);
    const int head = work.pair % static_cast<int>(job.heads);
    const int own = head * (W::kNope + W::kValue);

    const uint32_t q_full = SharedAddress(&bars.q_full);
    Wait(bars.q_empty, q_phase ^ 1);
    q_phase ^= 1;
    BarrierExpect(q_full, kQueryBox<W> * W::kKeyBoxes);
    for (int b = 0; b < W::kKeyBoxes; ++b) {
      const int column = b < W::kNopeBoxes ? 64 * b : W::kNope + 64 * (b - W::kNopeBoxes);
      LoadBox(q + b * kQueryBox<W>, &q_map,
              {head * (W::kNope + W::kRope) + column, work.tile * kQueries<W>, row, 0}, q_full);
    }
    for (int tile = LastKeys<W>(job, work); tile >= work.end; --tile) {
      const uint32_t k_full = SharedAddress(&bars.k_full[kv.stage]);
      const uint32_t k_to = k + kv.stage * kBox * W::kKeyBoxes;
      Wait(bars.k_empty[kv.stage], kv.phase ^ 1);
      BarrierExpect(k_full, kBox * W::kKeyBoxes);
      for (int b = 0; b < W::kKeyBoxes; ++b) {
        if (b < W::kNopeBoxes) {
          LoadBox(k_to + b * kBox, &kv_map, {own + 64 * b, tile * kKeys, row, 0}, k_full);
        } else {
          LoadBox(k_to + b * kBox, &pe_map, {64 * (b - W::kNopeBoxes), tile * kKeys, row, 0},
                  k_full);
        }
      }
      const uint32_t v_full = SharedAddress(&bars.v_full[kv.stage]);
      Wait(bars.v_empty[kv.stage], kv.phase ^ 1);
      BarrierExpect(v_full, kBox * W::kValueBoxes);
      for (int b = 0; b < W::kValueBoxes; ++b) {
        LoadBox(v + (kv.stage * W::kValueBoxes + b) * kBox, &kv_map,
                {own + W::kNope + 64 * b, tile * kKeys, row, 0}, v_full);
      }
      kv.Next();
    }
  }
}

// The online softmax of a thread's two rows.
struct Softmax {
  float most[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};

  // Scores become probabilities relative to the new maximum; `shrink` is what earlier sums are to
  // be multiplied with.
  __device__ __forceinline__ void Step(float (&s)[64], float scale, float (&shrink)[2]) {
    float highest[2] = {most[0], most[1]};
#pragma unroll
    for (int j = 0; j < 64; j += 4) {
      highest[0] = fmaxf(highest[0], fmaxf(s[j], s[j + 1]));
      highest[1] = fmaxf(highest[1], fmaxf(s[j + 2], s[j + 3]));
    }
    float base[2], added[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(0xffffffffu, highest[h], 1));
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(0xffffffffu, highest[h], 2));
      base[h] = highest[h] == -INFINITY ? 0 : highest[h] * scale;
      shrink[h] = Exp2(most[h] * scale - base[h]);
      most[h] = highest[h];
    }
#pragma unroll
    for (int j = 0; j < 64; j += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[j + i] = Exp2(fmaf(s[j + i], scale, -base[i / 2]));
        added[i / 2] += s[j + i];
      }
    }
    for (int h = 0; h < 2; ++h) sum[h] = sum[h] * shrink[h] + added[h];
  }
};

template <class W>
__device__ void Compute(const Job& job, Barriers& bars, const Work (&works)[kStages], uint32_t q,
                        uint32_t k, uint32_t v) {
  const int group = Uniform(threadIdx.x / 128) - 1;
  const auto pass = [&] { PassTurn(group, kGroups<W>); };
  const int row_of_tile = 64 * group + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  const float scale = job.scale * kLog2E;
  const uint64_t q_at = OperandOf(q + group * 64 * 128, 0, 1024);
  Ring<kStages> at, k_at, v_at;
  uint32_t q_phase = 0;
  const auto k_operand = [&] { return OperandOf(k + k_at.stage * kBox * W::kKeyBoxes, 0, 1024); };
  const auto v_operand = [&] {
    return OperandOf(v + v_at.stage * kBox * W::kValueBoxes, kBox, 1024);
  };
  if (group == kGroups<W> - 1) pass();
  for (;;) {
    Wait(bars.work_full[at.stage], at.phase);
    const Work work = Uniform(works[at.stage]);
    Release(bars.work_empty[at.stage]);
    at.Next();
    if (work.tile < 0) break;
    const int64_t sample = work.pair / job.heads * job.length;
    const int query = work.tile * kQueries<W> + row_of_tile;
    const int first_query = work.tile * kQueries<W> + 64 * group;
    int start[2] = {0, 0};
    int all_from = 0;  // every query of the tile sees keys from here to the tile's first
    if (job.start != nullptr) {
      const int last = static_cast<int>(job.length) - 1;
      for (int h = 0; h < 2; ++h) start[h] = job.start[sample + min(query + 8 * h, last)];
      all_from = Uniform(job.start[sample + min(first_query + 63, last)]);
    }
    const int column = threadIdx.x % 4 * 2;
    Softmax softmax;
    float o[W::kValue / 2] = {};
    float s[64];
    float shrink[2];
    uint32_t p[32];

    Wait(bars.q_full, q_phase);
    q_phase ^= 1;
    int tile = LastKeys<W>(job, work);
    // No query of this warpgroup sees these.
    if (Holds(tile * kKeys > first_query + 63)) {
      --tile;
      Wait(bars.k_full[k_at.stage], k_at.phase);
      Release(bars.k_empty[k_at.stage]);
      k_at.Next();
      TakeTurn(group);
      pass();
      Wait(bars.v_full[v_at.stage], v_at.phase);
      Release(bars.v_empty[v_at.stage]);
      v_at.Next();
    }
    Wait(bars.k_full[k_at.stage], k_at.phase);
    TakeTurn(group);
    Settle(s);
    ProductsBegin();
    KeyProducts<W, kQueryBox<W>, kBox>(s, q_at, k_operand());
    ProductsCommit();
    pass();
    ProductsWait<0>();
    Settle(s);
    Release(bars.k_empty[k_at.stage]);
    k_at.Next();
    if (tile == work.end) Release(bars.q_empty);
    MaskKeys(s, query, start, tile * kKeys + column);
    softmax.Step(s, scale, shrink);
    Pack(p, s);
    while (--tile >= work.end) {
      Wait(bars.k_full[k_at.stage], k_at.phase);
      TakeTurn(group);
      Settle(s);
      Settle(o);
      ProductsBegin();
      KeyProducts<W, kQueryBox<W>, kBox>(s, q_at, k_operand());
      ProductsCommit();
      Wait(bars.v_full[v_at.stage], v_at.phase);
      ProductsBegin();
      AddRowProducts(o, p, v_operand());
      ProductsCommit();
      pass();
      ProductsWait<1>();
      Settle(s);
      Release(bars.k_empty[k_at.stage]);
      k_at.Next();
      if (tile == work.end) Release(bars.q_empty);
      if (tile * kKeys < all_from) MaskKeys(s, query, start, tile * kKeys + column);
      softmax.Step(s, scale, shrink);
      ProductsWait<0>();
      Settle(o);
      Release(bars.v_empty[v_at.stage]);
      v_at.Next();
      Pack(p, s);
#pragma unroll
      for (int j = 0; j < W::kValue / 2; ++j) o[j] *= shrink[j / 2 % 2];
    }
    Wait(bars.v_full[v_at.stage], v_at.phase);
    Settle(o);
    ProductsBegin();
    AddRowProducts(o, p, v_operand());
    ProductsCommit();
    ProductsWait<0>();
    Settle(o);
    Release(bars.v_empty[v_at.stage]);
    v_at.Next();

    const int64_t head = work.pair % job.heads;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = softmax.sum[h];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const bool inside = query + 8 * h < job.length;
      const int64_t at_row = (sample + query + 8 * h) * job.heads + head;
      if (inside && threadIdx.x % 4 == 0) {
        job.lse[at_row] = softmax.most[h] * job.scale + logf(sum);
      }
      StoreRow<0, W::kValue>(o, h, 1.0f / sum, inside ? job.out + at_row * W::kValue : nullptr);
    }
  }
}

template <class W>
__global__ void __launch_bounds__(kBlock<W>, 1)
    HopperForward(const __grid_constant__ CUtensorMap q_map,
                  const __grid_constant__ CUtensorMap kv_map,
                  const __grid_constant__ CUtensorMap pe_map, Job job) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ Barriers bars;
  __shared__ Work works[kStages];
  const uint32_t q = SharedAddress(shared);
  const uint32_t k = q + kQueryBox<W> * W::kKeyBoxes;
  const uint32_t v = k + kStages * kBox * W::kKeyBoxes;
  if (threadIdx.x == 0) {
    BarrierInit(SharedAddress(&bars.q_full), 1);
    BarrierInit(SharedAddress(&bars.q_empty), 4 * kGroups<W>);
    for (int i = 0; i < kStages; ++i) {
      for (uint64_t* full : {&bars.k_full[i], &bars.v_full[i], &bars.work_full[i]}) {
        BarrierInit(SharedAddress(full), 1);
      }
      for (uint64_t* empty : {&bars.k_empty[i], &bars.v_empty[i], &bars.work_empty[i]}) {
        BarrierInit(SharedAddress(empty), 4 * kGroups<W>);
      }
    }
    BarrierInitFence();
  }
  __syncthreads();
  if (Uniform(threadIdx.x / 128) == 0) {
    RegistersDown<kGroups<W> == 2 ? 40 : 32>();
    if (threadIdx.x == 0) Load<W>(job, q_map, kv_map, pe_map, bars, works, q, k, v);
  } else {
    RegistersUp<kGroups<W> == 2 ? 232 : 160>();
    Compute<W>(job, bars, works, q, k, v);
  }
}

template <class W>
void Run(Stream& stream, const AttentionArgs<bf16>& n, bool documents) {
  const int64_t pairs = n.rows * n.heads;
  const CUtensorMap q =
      Bf16Map(n.q, {n.heads * n.width(), n.length, n.rows, 1}, {64, kQueries<W>, 1, 1});
  const CUtensorMap kv =
      Bf16Map(n.kv, {n.heads * (n.nope + n.value), n.length, n.rows, 1}, {64, kKeys, 1, 1});
  const CUtensorMap pe = Bf16Map(n.k_pe, {n.rope, n.length, n.rows, 1}, {64, kKeys, 1, 1});
  Tensor counter = Tensor::Zeros(stream, DType::kI32, {1}, MemoryTag::kWorkspace);
  Job job = {};
  job.length = n.length;
  job.heads = n.heads;
  job.tiles = static_cast<int32_t>(CeilDiv(n.length, kQueries<W>));
  job.pairs = static_cast<int32_t>(pairs);
  const int64_t pair_bytes = n.length * (n.nope + n.value) * 2;
  job.group = static_cast<int32_t>(std::max<int64_t>(1, std::min(pairs, kResident / pair_bytes)));
  job.scale = n.scale;
  job.start = documents ? n.start : nullptr;
  job.counter = Data<int32_t>(counter);
  job.out = n.out;
  job.lse = n.lse_out;
  const int64_t blocks = std::min<int64_t>(QueueOf(stream).multiprocessors, job.tiles * pairs);
  Launch(stream, HopperForward<W>, dim3(static_cast<unsigned>(blocks)), kBlock<W>, kShared<W>, q,
         kv, pe, job);
}

}  // namespace

bool AttentionHopperServes(Stream& stream, const AttentionArgs<bf16>& n) {
  const auto is = [&](int nope, int rope, int value) {
    return n.nope == nope && n.rope == rope && n.value == value;
  };
  return QueueOf(stream).hopper() && (is(128, 64, 128) || is(64, 32, 64) || is(48, 16, 64)) &&
         OnSixteenBytes(n) && n.length * n.rows * n.heads < int64_t{1} << 31;
}

void AttentionHopper(Stream& stream, const AttentionArgs<bf16>& n, bool documents) {
  if (n.nope == 128) return Run<Widths<128, 64, 128>>(stream, n, documents);
  if (n.nope == 64) return Run<Widths<64, 32, 64>>(stream, n, documents);
  Run<Widths<48, 16, 64>>(stream, n, documents);
}

}  // namespace mneme::gpu
