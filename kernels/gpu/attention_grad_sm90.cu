// Attention backward on Hopper, with documents or without: two kernels, seven products where five
// would do, and in exchange no sums across blocks: no atomics, nothing of length² in memory, the
// same bits every time.
//
// dq: a block owns 128 queries of one head and walks over the keys that they see, as in the forward
// pass; ds goes from registers into its product with the keys. dk and dv: a block owns 128 keys and
// walks over the queries that see them, 48 or 64 at a time, with the transposed scores; a warpgroup
// keeps dk and dv of its 64 keys in registers, which leaves room for little else: probabilities
// wait in bf16. Shares of the heads in dk_pe are summed afterwards, head by head. What both need of
// a query (log-sum-exp, delta, first key) is laid out beforehand by sample and head, padded so that
// queries outside the sample have probabilities of 0.
//
// Roofline, 27B shape (4 rows of 4,096, 32 heads of 128 + 64 / 128): 1.79 TFLOP (2.47 done), 1.8
// (2.5) ms at 989 TFLOP/s; 1.1 GB to read and write, 0.33 ms. On an H100 whose large matmuls reach
// 788 TFLOP/s: 426 (588 done; 4.2 ms, of which notes, dk and dv 2.4, dq 1.8; cuDNN's deterministic
// one 379 without the packing that it needs); sweep shape (16 rows of 2,048, 8 heads of 64 + 32 /
// 64) 324 (cuDNN 242).
#include "kernels/gpu/attention.h"
#include "kernels/gpu/device/attention_sm90.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;

constexpr int kQueryStages = 3;          // such tiles in flight
constexpr int kKeyStages = 2;            // tiles of keys and values that dq walks over, in flight
constexpr int64_t kResident = 20 << 20;  // bytes of one side that L2 is asked to hold

// Keys of a tile that dq walks over: as many as shared memory holds twice.
template <class W>
constexpr int kKeys = W::kValue > 64 ? 80 : 128;

// Queries of a tile that dk and dv walk over: as many as registers allow.
template <class W>
constexpr int kQueries = W::kValue > 64 ? 48 : 64;
constexpr int kMostQueries = 64;
constexpr int kPadding = 384;  // notes of a sample: a multiple of every tile

constexpr int kOwnBox = kTile * kLine;
template <class W>
constexpr int kQueryBox = kQueries<W>* kLine;
template <class W>
constexpr int kKeyBox = kKeys<W>* kLine;

struct Job {
  int64_t length;
  int64_t padded;  // length of the notes of a sample and head
  int64_t heads;
  int32_t tiles;  // of kTile
  int32_t pairs;
  int32_t group;
  bool documents;
  float scale;
  const float* lse;      // [pairs, padded], times log2 e
  const float* delta;    // [pairs, padded]
  const int32_t* start;  // [rows, padded]
  int32_t* counter;
  bf16* dq;
  bf16* dkv;
  float* dk_pe_head;
};

struct Maps {
  CUtensorMap q, dout, kv, k_pe;
};

// Notes of a query; see Job.
struct QueryNotes {
  float lse[kMostQueries];
  float delta[kMostQueries];
  int32_t start[kMostQueries];
};

template <int kStages>
struct Barriers {
  uint64_t own_full, own_empty;
  uint64_t full[kStages], empty[kStages];
  uint64_t work_full[2], work_empty[2];
};

template <int kStages>
__device__ void InitBarriers(Barriers<kStages>& bars) {
  BarrierInit(SharedAddress(&bars.own_full), 1);
  BarrierInit(SharedAddress(&bars.own_empty), kReaders);
  for (int i = 0; i < kStages; ++i) {
    BarrierInit(SharedAddress(&bars.full[i]), 1);
    BarrierInit(SharedAddress(&bars.empty[i]), kReaders);
  }
  for (int i = 0; i < 2; ++i) {
    BarrierInit(SharedAddress(&bars.work_full[i]), 1);
    BarrierInit(SharedAddress(&bars.work_empty[i]), kReaders);
  }
  BarrierInitFence();
}

// Hands the next work to the warpgroups that compute. One thread.
template <int kStages>
__device__ void Announce(Barriers<kStages>& bars, Work (&works)[2], Ring<2>& at, const Work& work) {
  Wait(bars.work_empty[at.stage], at.phase ^ 1);
  works[at.stage] = work;
  BarrierArrive(SharedAddress(&bars.work_full[at.stage]));
  at.Next();
}

template <int kStages>
__device__ Work Next(Barriers<kStages>& bars, const Work (&works)[2], Ring<2>& at) {
  Wait(bars.work_full[at.stage], at.phase);
  const Work work = Uniform(works[at.stage]);
  Release(bars.work_empty[at.stage]);
  at.Next();
  return work;
}

__device__ void LoadBytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// Boxes of a head's rows in q and dout, from token `t` of sample `row`; `rows` of a box.
template <class W, int kBoxBytes>
__device__ void LoadQueryBoxes(const Maps& maps, uint32_t to, int head, int t, int row,
                               uint32_t barrier) {
#pragma unroll
  for (int b = 0; b < W::kKeyBoxes; ++b) {
    const int column = b < W::kNopeBoxes ? 64 * b : W::kNope + 64 * (b - W::kNopeBoxes);
    LoadBox(to + b * kBoxBytes, &maps.q, {head * W::kWidth + column, t, row, 0}, barrier);
  }
#pragma unroll
  for (int b = 0; b < W::kValueBoxes; ++b) {
    LoadBox(to + (W::kKeyBoxes + b) * kBoxBytes, &maps.dout, {head * W::kValue + 64 * b, t, row, 0},
            barrier);
  }
}

// Boxes of a head's keys and values: own part, shared part, values.
template <class W, int kBoxBytes>
__device__ void LoadKeyBoxes(const Maps& maps, uint32_t to, int head, int t, int row,
                             uint32_t barrier) {
  const int own = head * (W::kNope + W::kValue);
#pragma unroll
  for (int b = 0; b < W::kKeyBoxes; ++b) {
    if (b < W::kNopeBoxes) {
      LoadBox(to + b * kBoxBytes, &maps.kv, {own + 64 * b, t, row, 0}, barrier);
    } else {
      LoadBox(to + b * kBoxBytes, &maps.k_pe, {64 * (b - W::kNopeBoxes), t, row, 0}, barrier);
    }
  }
#pragma unroll
  for (int b = 0; b < W::kValueBoxes; ++b) {
    LoadBox(to + (W::kKeyBoxes + b) * kBoxBytes, &maps.kv, {own + W::kNope + 64 * b, t, row, 0},
            barrier);
  }
}

// dq -----------------------------------------------------------------------------------------

template <class W>
__device__ void LoadForQueries(const Job& job, const Maps& maps, Barriers<kKeyStages>& bars,
                               Work (&works)[2], uint32_t own, uint32_t ring) {
  Ring<2> at;
  Ring<kKeyStages> kv;
  uint32_t own_phase = 0;
  for (int index = blockIdx.x;; index = gridDim.x + atomicAdd(job.counter, 1)) {
    Work work = {-1, 0, 0};
    if (index < job.tiles * job.pairs) work = WorkAt(index, job.tiles, job.pairs, job.group);
    const int row = work.pair / static_cast<int>(job.heads);
    const int head = work.pair % static_cast<int>(job.heads);
    if (work.tile >= 0) {
      work.tile = job.tiles - 1 - work.tile;
      if (job.documents) {
        work.end = job.start[row * job.padded + int64_t{work.tile} * kTile] / kKeys<W>;
      }
    }
    Announce(bars, works, at, work);
    if (work.tile < 0) return;
    Wait(bars.own_empty, own_phase ^ 1);
    own_phase ^= 1;
    const uint32_t own_full = SharedAddress(&bars.own_full);
    BarrierExpect(own_full, kOwnBox * W::kBoxes);
    LoadQueryBoxes<W, kOwnBox>(maps, own, head, work.tile * kTile, row, own_full);
    const int last = min(work.tile * kTile + kTile, static_cast<int>(job.length)) - 1;
    for (int tile = last / kKeys<W>; tile >= work.end; --tile) {
      const uint32_t full = SharedAddress(&bars.full[kv.stage]);
      Wait(bars.empty[kv.stage], kv.phase ^ 1);
      BarrierExpect(full, kKeyBox<W> * W::kBoxes);
      LoadKeyBoxes<W, kKeyBox<W>>(maps, ring + kv.stage * kKeyBox<W> * W::kBoxes, head,
                                  tile * kKeys<W>, row, full);
      kv.Next();
    }
  }
}

// Scores s and gradients dp of the probabilities become the packed gradients of the scores, without
// the scale.
template <int N>
__device__ __forceinline__ void Probabilities(float (&s)[N], float scale, const float (&lse)[2]) {
#pragma unroll
  for (int j = 0; j < N; ++j) s[j] = exp2f(fmaf(s[j], scale, -lse[j / 2 % 2]));
}
template <int N>
__device__ __forceinline__ void ScoreGradients(uint32_t (&ds)[N / 2], const float (&p)[N],
                                               const float (&dp)[N], const float (&delta)[2]) {
#pragma unroll
  for (int j = 0; j < N; j += 2) {
    const float d = delta[j / 2 % 2];
    ds[j / 2] = PackPair(p[j] * (dp[j] - d), p[j + 1] * (dp[j + 1] - d));
  }
}

template <class W>
__device__ void ComputeForQueries(const Job& job, Barriers<kKeyStages>& bars,
                                  const Work (&works)[2], uint32_t own, uint32_t ring) {
  constexpr int kN = kKeys<W>;
  constexpr int kBox = kKeyBox<W>;
  const int group = Uniform(threadIdx.x / 128) - 1;
  const int row_of_tile = 64 * group + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  const float scale = job.scale * kLog2E;
  const uint64_t q = OperandOf(own + group * 64 * kLine, 0, 1024);
  const uint64_t dout = OperandOf(own + W::kKeyBoxes * kOwnBox + group * 64 * kLine, 0, 1024);
  Ring<2> at;
  Ring<kKeyStages> kv;
  uint32_t own_phase = 0;
  const auto stage = [&] { return ring + kv.stage * kBox * W::kBoxes; };
  if (group == kConsumers - 1) PassTurn(group);
  for (;;) {
    const Work work = Next(bars, works, at);
    if (work.tile < 0) break;
    const int query = work.tile * kTile + row_of_tile;
    const int64_t row = work.pair / job.heads;
    const int last = min(work.tile * kTile + kTile, static_cast<int>(job.length)) - 1;
    float lse[2], delta[2];
    int start[2] = {0, 0};
    int all_from = 0;
    for (int h = 0; h < 2; ++h) {
      lse[h] = job.lse[work.pair * job.padded + query + 8 * h];
      delta[h] = job.delta[work.pair * job.padded + query + 8 * h];
      if (job.documents) start[h] = job.start[row * job.padded + query + 8 * h];
    }
    if (job.documents) all_from = Uniform(job.start[row * job.padded + last]);
    const int column = threadIdx.x % 4 * 2;
    float dq[W::kWidth / 2] = {};
    float s[kN / 2], dp[kN / 2];
    uint32_t ds[kN / 4];
    // Scores and gradients of the probabilities of the stage's keys.
    const auto begin = [&] {
      Wait(bars.full[kv.stage], kv.phase);
      TakeTurn(group);
      Settle(s);
      Settle(dp);
      ProductsBegin();
      KeyProducts<W, kOwnBox, kBox>(s, q, OperandOf(stage(), 0, 1024));
      ProductsCommit();
      ValueProducts<W, kOwnBox, kBox>(dp, dout, OperandOf(stage() + W::kKeyBoxes * kBox, 0, 1024));
      ProductsCommit();
    };
    const auto between = [&](int tile) {
      const int key = tile * kN;
      ProductsWait<1>();
      Settle(s);
      if (key + kN - 1 > work.tile * kTile || key < all_from) {
        MaskKeys(s, query, start, key + column);
      }
      Probabilities(s, scale, lse);
      ProductsWait<0>();
      Settle(dp);
      ScoreGradients(ds, s, dp, delta);
    };
    const auto add = [&] {
      Settle(dq);
      ProductsBegin();
      AddRowProducts(dq, ds, OperandOf(stage(), kBox, 1024));
      ProductsCommit();
    };
    Wait(bars.own_full, own_phase);
    own_phase ^= 1;
    begin();
    PassTurn(group);
    between(last / kN);
    for (int tile = last / kN; tile > work.end; --tile) {
      add();
      const uint32_t old = kv.stage;
      kv.Next();
      begin();
      PassTurn(group);
      between(tile - 1);
      // Products end in order: those with the old stage are done.
      Release(bars.empty[old]);
    }
    Release(bars.own_empty);
    add();
    ProductsWait<0>();
    Settle(dq);
    Release(bars.empty[kv.stage]);
    kv.Next();
    const int64_t head = work.pair % job.heads;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t token = row * job.length + query + 8 * h;
      const bool inside = query + 8 * h < job.length;
      StoreRow<0, W::kWidth>(dq, h, job.scale,
                             inside ? job.dq + (token * job.heads + head) * W::kWidth : nullptr);
    }
  }
}

template <class W>
constexpr int kQueryGradShared = W::kBoxes*(kOwnBox + kKeyStages * kKeyBox<W>);

template <class W>
__global__ void __launch_bounds__(kThreads, 1)
    HopperQueryGrad(const __grid_constant__ Maps maps, Job job) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ Barriers<kKeyStages> bars;
  __shared__ Work works[2];
  const uint32_t own = SharedAddress(shared);
  const uint32_t ring = own + W::kBoxes * kOwnBox;
  if (threadIdx.x == 0) InitBarriers(bars);
  __syncthreads();
  if (Uniform(threadIdx.x / 128) == 0) {
    RegistersDown<24>();
    if (threadIdx.x == 0) LoadForQueries<W>(job, maps, bars, works, own, ring);
  } else {
    RegistersUp<240>();
    ComputeForQueries<W>(job, bars, works, own, ring);
  }
}

// dk and dv -------------------------------------------------------------------------------------

// The last tile of queries that sees a key of the block. A warp.
template <class W>
__device__ int LastQueries(const Job& job, const Work& work) {
  const int tiles = static_cast<int>((job.length + kQueries<W> - 1) / kQueries<W>);
  if (!job.documents) return tiles - 1;
  const int64_t row = work.pair / job.heads;
  int last = work.tile * kTile / kQueries<W>;
  for (int first = last + 1; first < tiles; first += 32) {
    const int tile = first + threadIdx.x % 32;
    const bool sees =
        tile < tiles && job.start[row * job.padded + tile * kQueries<W>] < (work.tile + 1) * kTile;
    const int seen = __popc(__ballot_sync(0xffffffffu, sees));
    last += seen;
    if (seen < 32) break;
  }
  return last;
}

template <class W>
constexpr int kQueryStage = W::kBoxes* kQueryBox<W>;

template <class W>
__device__ void LoadForKeys(const Job& job, const Maps& maps, Barriers<kQueryStages>& bars,
                            Work (&works)[2], uint32_t own, uint32_t ring,
                            QueryNotes (&notes)[kQueryStages]) {
  Ring<2> at;
  Ring<kQueryStages> q;
  uint32_t own_phase = 0;
  const bool leads = threadIdx.x == 0;
  for (int index = blockIdx.x;;) {
    Work work = {-1, 0, 0};
    if (index < job.tiles * job.pairs) {
      work = WorkAt(index, job.tiles, job.pairs, job.group);
      work.end = LastQueries<W>(job, work);
    }
    if (leads) {
      Announce(bars, works, at, work);
    }
    if (work.tile < 0) return;
    if (leads) {
      const int row = work.pair / static_cast<int>(job.heads);
      const int head = work.pair % static_cast<int>(job.heads);
      Wait(bars.own_empty, own_phase ^ 1);
      own_phase ^= 1;
      const uint32_t own_full = SharedAddress(&bars.own_full);
      BarrierExpect(own_full, kOwnBox * W::kBoxes);
      LoadKeyBoxes<W, kOwnBox>(maps, own, head, work.tile * kTile, row, own_full);
      for (int tile = work.tile * kTile / kQueries<W>; tile <= work.end; ++tile) {
        const uint32_t full = SharedAddress(&bars.full[q.stage]);
        Wait(bars.empty[q.stage], q.phase ^ 1);
        QueryNotes& n = notes[q.stage];
        const int64_t first = int64_t{tile} * kQueries<W>;
        constexpr int kBytes = kQueries<W> * 4;
        BarrierExpect(full, kQueryStage<W> + kBytes * (job.documents ? 3 : 2));
        LoadQueryBoxes<W, kQueryBox<W>>(maps, ring + q.stage * kQueryStage<W>, head,
                                        tile * kQueries<W>, row, full);
        LoadBytes(SharedAddress(n.lse), job.lse + work.pair * job.padded + first, kBytes, full);
        LoadBytes(SharedAddress(n.delta), job.delta + work.pair * job.padded + first, kBytes, full);
        if (job.documents) {
          LoadBytes(SharedAddress(n.start), job.start + row * job.padded + first, kBytes, full);
        }
        q.Next();
      }
      index = gridDim.x + atomicAdd(job.counter, 1);
    }
    index = Uniform(index);
  }
}

// s [key, query] → packed probabilities. A thread's keys are `key` and that + 8; its first query in
// the tile is `column`, the tile's first is `q0`.
template <int N>
__device__ __forceinline__ void TransposedProbabilities(uint32_t (&p)[N / 2], float (&s)[N],
                                                        float scale, const QueryNotes& notes,
                                                        int key, int q0, int column, bool masked,
                                                        bool documents) {
#pragma unroll
  for (int j = 0; j < N; j += 4) {
    const int c = j * 2 + column;
    const float2 lse = *reinterpret_cast<const float2*>(&notes.lse[c]);
    if (masked) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = key + i / 2 * 8;
        const int query = q0 + c + i % 2;
        if (k > query || (documents && k < notes.start[c + i % 2])) s[j + i] = -INFINITY;
      }
    }
    p[j / 2] = PackPair(exp2f(fmaf(s[j], scale, -lse.x)), exp2f(fmaf(s[j + 1], scale, -lse.y)));
    p[j / 2 + 1] =
        PackPair(exp2f(fmaf(s[j + 2], scale, -lse.x)), exp2f(fmaf(s[j + 3], scale, -lse.y)));
  }
}

template <int N>
__device__ __forceinline__ void TransposedGradients(uint32_t (&ds)[N / 2],
                                                    const uint32_t (&p)[N / 2],
                                                    const float (&dp)[N], const QueryNotes& notes,
                                                    int column) {
#pragma unroll
  for (int j = 0; j < N / 2; ++j) {
    const float2 delta = *reinterpret_cast<const float2*>(&notes.delta[j / 2 * 8 + column]);
    const float2 x = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(p[j]));
    ds[j] = PackPair(x.x * (dp[2 * j] - delta.x), x.y * (dp[2 * j + 1] - delta.y));
  }
}

template <class W>
__device__ void StoreKeyGrads(const Job& job, const Work& work, int key,
                              const float (&dk)[W::kWidth / 2], const float (&dv)[W::kValue / 2]) {
  const int64_t row = work.pair / job.heads;
  const int64_t head = work.pair % job.heads;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool inside = key + 8 * h < job.length;
    const int64_t at = (row * job.length + key + 8 * h) * job.heads + head;
    bf16* dkv = inside ? job.dkv + at * (W::kNope + W::kValue) : nullptr;
    StoreRow<0, W::kNope>(dk, h, job.scale, dkv);
    StoreRow<0, W::kValue>(dv, h, 1.0f, inside ? dkv + W::kNope : nullptr);
    if (!inside) continue;
    float* share = job.dk_pe_head + at * W::kRope + threadIdx.x % 4 * 2;
#pragma unroll
    for (int b = 0; b < W::kRope / 8; ++b) {
      const int from = (W::kNope / 8 + b) * 4 + 2 * h;
      *reinterpret_cast<float2*>(share + 8 * b) =
          make_float2(dk[from] * job.scale, dk[from + 1] * job.scale);
    }
  }
}

template <class W>
__device__ void ComputeForKeys(const Job& job, Barriers<kQueryStages>& bars, const Work (&works)[2],
                               uint32_t own, uint32_t ring,
                               const QueryNotes (&notes)[kQueryStages]) {
  const int group = Uniform(threadIdx.x / 128) - 1;
  const int row_of_tile = 64 * group + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  const int column = threadIdx.x % 4 * 2;
  const float scale = job.scale * kLog2E;
  const uint64_t k = OperandOf(own + group * 64 * kLine, 0, 1024);
  const uint64_t v = OperandOf(own + W::kKeyBoxes * kOwnBox + group * 64 * kLine, 0, 1024);
  Ring<2> at;
  Ring<kQueryStages> q;
  uint32_t own_phase = 0;
  for (;;) {
    const Work work = Next(bars, works, at);
    if (work.tile < 0) break;
    float dk[W::kWidth / 2] = {};
    float dv[W::kValue / 2] = {};
    float s[kQueries<W> / 2];  // scores, then gradients of the probabilities
    Wait(bars.own_full, own_phase);
    own_phase ^= 1;
    uint32_t old = 0;
    const int first = work.tile * kTile / kQueries<W>;
    for (int tile = first; tile <= work.end; ++tile) {
      const uint32_t stage = ring + q.stage * kQueryStage<W>;
      const QueryNotes& n = notes[q.stage];
      Wait(bars.full[q.stage], q.phase);
      Settle(s);
      ProductsBegin();
      KeyProducts<W, kOwnBox, kQueryBox<W>>(s, k, OperandOf(stage, 0, 1024));
      ProductsCommit();
      ProductsWait<1>();
      if (tile > first) Release(bars.empty[old]);
      old = q.stage;
      ProductsWait<0>();
      Settle(s);
      uint32_t p[kQueries<W> / 4], ds[kQueries<W> / 4];
      const int q0 = tile * kQueries<W>;
      const bool masked = q0 < work.tile * kTile + kTile - 1 ||
                          (job.documents && Uniform(n.start[kQueries<W> - 1]) > work.tile * kTile);
      TransposedProbabilities(p, s, scale, n, work.tile * kTile + row_of_tile, q0, column, masked,
                              job.documents);
      Settle(s);
      Settle(dv);
      ProductsBegin();
      ValueProducts<W, kOwnBox, kQueryBox<W>>(
          s, v, OperandOf(stage + W::kKeyBoxes * kQueryBox<W>, 0, 1024));
      ProductsCommit();
      AddRowProducts(dv, p, OperandOf(stage + W::kKeyBoxes * kQueryBox<W>, kQueryBox<W>, 1024));
      ProductsCommit();
      ProductsWait<1>();
      Settle(s);
      TransposedGradients(ds, p, s, n, column);
      Settle(dk);
      ProductsBegin();
      AddRowProducts(dk, ds, OperandOf(stage, kQueryBox<W>, 1024));
      ProductsCommit();
      // The registers of p are needed for the next scores.
      ProductsWait<1>();
      q.Next();
    }
    ProductsWait<0>();
    Settle(dk);
    Settle(dv);
    Release(bars.empty[old]);
    Release(bars.own_empty);
    StoreKeyGrads<W>(job, work, work.tile * kTile + row_of_tile, dk, dv);
  }
}

template <class W>
constexpr int kKeyGradShared = W::kBoxes* kOwnBox + kQueryStages* kQueryStage<W>;

template <class W>
__global__ void __launch_bounds__(kThreads, 1)
    HopperKeyGrad(const __grid_constant__ Maps maps, Job job) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ Barriers<kQueryStages> bars;
  __shared__ Work works[2];
  __shared__ __align__(16) QueryNotes notes[kQueryStages];
  const uint32_t own = SharedAddress(shared);
  const uint32_t ring = own + W::kBoxes * kOwnBox;
  if (threadIdx.x == 0) InitBarriers(bars);
  __syncthreads();
  const int group = Uniform(threadIdx.x / 128);
  if (group == 0) {
    RegistersDown<24>();
    if (Uniform(threadIdx.x / 32) == 0) {
      LoadForKeys<W>(job, maps, bars, works, own, ring, notes);
    }
  } else {
    RegistersUp<240>();
    ComputeForKeys<W>(job, bars, works, own, ring, notes);
  }
}

// -----------------------------------------------------------------------------------------------

// Notes of all queries: kLanes threads a row of dout and out, 8 columns each.
template <int kLanes>
__global__ void LayOutNotes(AttentionArgs<bf16> n, int64_t padded, float* lse, float* delta,
                            int32_t* start) {
  const int64_t i = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / kLanes;
  if (i >= n.rows * padded * n.heads) return;
  const int64_t head = i % n.heads;
  const int64_t t = i / n.heads % padded;
  const int64_t row = i / n.heads / padded;
  const int64_t at = (row * n.length + t) * n.heads + head;
  const bool inside = t < n.length;
  float sum = 0;
  if (inside) {
    float x[8], y[8];
    const int64_t from = at * n.value + threadIdx.x % kLanes * 8;
    LoadFloats(n.dout + from, x);
    LoadFloats(n.saved_out + from, y);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += x[j] * y[j];
  }
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  if (threadIdx.x % kLanes != 0) return;
  const int64_t to = (row * n.heads + head) * padded + t;
  lse[to] = inside ? n.lse[at] * kLog2E : INFINITY;
  delta[to] = sum;
  // Beyond the sample the first key goes on not falling.
  if (head == 0) {
    start[row * padded + t] = inside ? n.start[row * n.length + t] : static_cast<int32_t>(n.length);
  }
}

Maps MapsOf(const AttentionArgs<bf16>& n, uint32_t query_rows, uint32_t key_rows) {
  const auto map = [&](const bf16* base, int64_t width, uint32_t rows) {
    return Bf16Map(base, {width, n.length, n.rows, 1}, {64, rows, 1, 1});
  };
  return {map(n.q, n.heads * n.width(), query_rows), map(n.dout, n.heads * n.value, query_rows),
          map(n.kv, n.heads * (n.nope + n.value), key_rows), map(n.k_pe, n.rope, key_rows)};
}

template <class W>
void Run(Stream& stream, const AttentionArgs<bf16>& n, bool documents) {
  const int64_t pairs = n.rows * n.heads;
  const int64_t tiles = CeilDiv(n.length, kTile);
  const int64_t padded = CeilDiv(n.length, kPadding) * kPadding;
  Tensor lse = Tensor::Empty(stream, DType::kF32, {pairs, padded}, MemoryTag::kWorkspace);
  Tensor delta = Tensor::Empty(stream, DType::kF32, {pairs, padded}, MemoryTag::kWorkspace);
  Tensor start = Tensor::Empty(stream, DType::kI32, {n.rows, padded}, MemoryTag::kWorkspace);
  Tensor counters = Tensor::Zeros(stream, DType::kI32, {2}, MemoryTag::kWorkspace);
  constexpr int kLanes = W::kValue / 8;
  Launch(stream, LayOutNotes<kLanes>,
         dim3(static_cast<unsigned>(CeilDiv(pairs * padded * kLanes, 256))), 256, 0, n, padded,
         Data<float>(lse), Data<float>(delta), Data<int32_t>(start));

  Job job = {};
  job.length = n.length;
  job.padded = padded;
  job.heads = n.heads;
  job.tiles = static_cast<int32_t>(tiles);
  job.pairs = static_cast<int32_t>(pairs);
  job.group = static_cast<int32_t>(
      std::max<int64_t>(1, std::min(pairs, kResident / (n.length * (W::kWidth + W::kValue) * 2))));
  job.documents = documents;
  job.scale = n.scale;
  job.lse = Data<float>(lse);
  job.delta = Data<float>(delta);
  job.start = Data<int32_t>(start);
  job.counter = Data<int32_t>(counters);
  job.dq = n.dq;
  job.dkv = n.dkv;
  job.dk_pe_head = n.dk_pe_head;
  const dim3 grid(
      static_cast<unsigned>(std::min<int64_t>(QueueOf(stream).multiprocessors, tiles * pairs)));
  Launch(stream, HopperKeyGrad<W>, grid, kThreads, kKeyGradShared<W>, MapsOf(n, kQueries<W>, kTile),
         job);
  ++job.counter;
  Launch(stream, HopperQueryGrad<W>, grid, kThreads, kQueryGradShared<W>,
         MapsOf(n, kTile, kKeys<W>), job);
}

}  // namespace

void AttentionGradHopper(Stream& stream, const AttentionArgs<bf16>& n, bool documents) {
  if (n.value == 128) return Run<Widths<128, 64, 128>>(stream, n, documents);
  Run<Widths<64, 32, 64>>(stream, n, documents);
}

}  // namespace mneme::gpu
