// Attention backward on Hopper, with documents or without: two kernels, seven products where five
// would do, and in exchange no sums across blocks: no atomics, nothing of length² in memory, the
// same bits every time.
//
// dq: attention_query_grad_sm90.cu. dk and dv, here: a block owns 128 keys and walks over the
// queries that see them, 48 or 64 at a time, with the transposed scores; a warpgroup keeps dk and
// dv of its 64 keys in registers, which at the wider shape leaves room for little else.
// Probabilities wait in bf16. Shares of the heads in dk_pe are summed afterwards, head by head.
// What both need of a query (log-sum-exp, delta, first key) is laid out beforehand by sample and
// head, padded so that queries outside the sample have probabilities of 0.
//
// Roofline, 27B shape (4 rows of 4,096, 32 heads of 128 + 64 / 128): 1.79 TFLOP (2.47 done), 1.8
// (2.5) ms at 989 TFLOP/s; 1.1 GB to read and write, 0.33 ms. Sweep shape (16 rows of 2,048, 8
// heads of 64 + 32 / 64): 0.22 TFLOP (0.32 done, the diagonal's unused half of a tile counted),
// 0.32 ms; 285 M exponentials in each kernel at 16 a clock and multiprocessor, 0.08 ms each, under
// the products; notes and sums over heads move 0.14 GB, 0.05 ms, beside them. On an H100 whose
// large matmuls reach 786 TFLOP/s: 27B 430 (592 done; 4.15 ms, of which notes, dk and dv 2.50,
// dq 1.65), sweep 352 (500 done; 0.63 ms, of which notes, dk and dv 0.39, dq 0.25). What is lost
// are the waits between products: five in a row depend on each other, and at the sweep's widths
// each is over in 130 to 190 clocks.
#include "kernels/gpu/device/attention_grad_sm90.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"

namespace mneme::gpu {
namespace {

using namespace hopper;

constexpr int64_t kResident = 20 << 20;  // bytes of one side that L2 is asked to hold

// Whether registers have room for the scores of the next tile, and for keys.
template <class W>
constexpr bool kAhead = W::kValue <= 64;
// Queries of a tile that dk and dv walk over: as many as registers allow.
template <class W>
constexpr int kQueries = kAhead<W> ? 64 : 48;
constexpr int kQueryStages = 3;  // such tiles in flight
constexpr int kMostQueries = 64;
constexpr int kPadding = 384;  // notes of a sample: a multiple of every tile

template <class W>
constexpr int kQueryBox = kQueries<W>* kLine;

// Notes of a query; see GradJob.
struct QueryNotes {
  float lse[kMostQueries];
  float delta[kMostQueries];
  int32_t start[kMostQueries];
};

__device__ void LoadBytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// The last tile of queries that sees a key of the block. A warp.
template <class W>
__device__ int LastQueries(const GradJob& job, const Work& work) {
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
__device__ void LoadForKeys(const GradJob& job, const GradMaps& maps, Barriers<kQueryStages>& bars,
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
  if (masked) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int k = key + j / 2 % 2 * 8;
      const int c = j / 4 * 8 + column + j % 2;
      if (k > q0 + c || (documents && k < notes.start[c])) s[j] = -INFINITY;
    }
  }
#pragma unroll
  for (int j = 0; j < N; j += 4) {
    const float2 lse = *reinterpret_cast<const float2*>(&notes.lse[j * 2 + column]);
    p[j / 2] = PackPair(Exp2(fmaf(s[j], scale, -lse.x)), Exp2(fmaf(s[j + 1], scale, -lse.y)));
    p[j / 2 + 1] =
        PackPair(Exp2(fmaf(s[j + 2], scale, -lse.x)), Exp2(fmaf(s[j + 3], scale, -lse.y)));
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
__device__ void StoreKeyGrads(const GradJob& job, const Work& work, int key,
                              const float (&dk)[W::kColumns / 2],
                              const float (&dv)[W::kValue / 2]) {
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
      const int from = (W::kRopeAt / 8 + b) * 4 + 2 * h;
      *reinterpret_cast<float2*>(share + 8 * b) =
          make_float2(dk[from] * job.scale, dk[from + 1] * job.scale);
    }
  }
}

template <class W>
__device__ void ComputeForKeys(const GradJob& job, Barriers<kQueryStages>& bars,
                               const Work (&works)[2], uint32_t own, uint32_t ring,
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
    float dk[W::kColumns / 2] = {};
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

// The same where the scores of the next tile are made while the gradients of this one's are worked
// out; keys stay in registers.
template <class W>
__device__ void ComputeForKeysAhead(const GradJob& job, Barriers<kQueryStages>& bars,
                                    const Work (&works)[2], uint32_t own, uint32_t ring,
                                    const QueryNotes (&notes)[kQueryStages]) {
  constexpr int kN = kQueries<W>;
  constexpr int kBox = kQueryBox<W>;
  const int group = Uniform(threadIdx.x / 128) - 1;
  const int row_of_tile = 64 * group + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  const int column = threadIdx.x % 4 * 2;
  const float scale = job.scale * kLog2E;
  Ring<2> at;
  Ring<kQueryStages> q;
  uint32_t own_phase = 0;
  const auto queries = [&](uint32_t stage) { return ring + stage * kQueryStage<W>; };
  const auto douts = [&](uint32_t stage) { return queries(stage) + W::kKeyBoxes * kBox; };
  for (;;) {
    const Work work = Next(bars, works, at);
    if (work.tile < 0) break;
    const int first_key = work.tile * kTile + 64 * group;
    const int key = work.tile * kTile + row_of_tile;
    uint32_t k[W::kWidth / 16][4];
    const uint64_t v = OperandOf(own + W::kKeyBoxes * kOwnBox + group * 64 * kLine, 0, 1024);
    Wait(bars.own_full, own_phase);
    own_phase ^= 1;
    LoadOperands<kOwnBox, W::kNope>(k, own + group * 64 * kLine);
    float dk[W::kColumns / 2] = {};
    float dv[W::kValue / 2] = {};
    float s[kN / 2], dp[kN / 2];
    uint32_t p[kN / 4], ds[kN / 4];
    int tile = work.tile * kTile / kN;
    // These see no key of this warpgroup.
    for (; tile <= work.end && tile * kN + kN - 1 < first_key; ++tile) {
      Wait(bars.full[q.stage], q.phase);
      Release(bars.empty[q.stage]);
      q.Next();
    }
    const auto probabilities = [&] {
      const QueryNotes& n = notes[q.stage];
      const int q0 = tile * kN;
      const bool masked =
          q0 < first_key + 63 || (job.documents && Uniform(n.start[kN - 1]) > first_key);
      TransposedProbabilities(p, s, scale, n, key, q0, column, masked, job.documents);
    };
    if (tile <= work.end) {
      Wait(bars.full[q.stage], q.phase);
      Settle(s);
      ProductsBegin();
      OperandProducts<kBox, W::kNope>(s, k, OperandOf(queries(q.stage), 0, 1024));
      ProductsCommit();
      ProductsWait<0>();
      Settle(s);
      probabilities();
      uint32_t old = q.stage;
      bool first = true;
      while (tile < work.end) {
        const uint32_t now = q.stage;
        Settle(s);
        Settle(dp);
        Settle(dv);
        ProductsBegin();
        ValueProducts<W, kOwnBox, kBox>(dp, v, OperandOf(douts(now), 0, 1024));
        ProductsCommit();
        AddRowProducts(dv, p, OperandOf(douts(now), kBox, 1024));
        q.Next();
        Wait(bars.full[q.stage], q.phase);
        ProductsBegin();
        OperandProducts<kBox, W::kNope>(s, k, OperandOf(queries(q.stage), 0, 1024));
        ProductsCommit();
        ProductsWait<1>();
        Settle(dp);
        if (!first) Release(bars.empty[old]);
        first = false;
        old = now;
        TransposedGradients(ds, p, dp, notes[now], column);
        Settle(dk);
        ProductsBegin();
        AddRowProducts(dk, ds, OperandOf(queries(now), kBox, 1024));
        ProductsCommit();
        ProductsWait<1>();
        Settle(s);
        ++tile;
        probabilities();
      }
      Settle(dp);
      Settle(dv);
      ProductsBegin();
      ValueProducts<W, kOwnBox, kBox>(dp, v, OperandOf(douts(q.stage), 0, 1024));
      ProductsCommit();
      AddRowProducts(dv, p, OperandOf(douts(q.stage), kBox, 1024));
      ProductsCommit();
      ProductsWait<1>();
      Settle(dp);
      if (!first) Release(bars.empty[old]);
      TransposedGradients(ds, p, dp, notes[q.stage], column);
      Settle(dk);
      ProductsBegin();
      AddRowProducts(dk, ds, OperandOf(queries(q.stage), kBox, 1024));
      ProductsCommit();
      ProductsWait<0>();
      Settle(dk);
      Settle(dv);
      Release(bars.empty[q.stage]);
      q.Next();
    }
    Release(bars.own_empty);
    StoreKeyGrads<W>(job, work, key, dk, dv);
  }
}

template <class W>
constexpr int kKeyGradShared = W::kBoxes* kOwnBox + kQueryStages* kQueryStage<W>;

template <class W>
__global__ void __launch_bounds__(kThreads, 1)
    HopperKeyGrad(const __grid_constant__ GradMaps maps, GradJob job) {
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
    if constexpr (kAhead<W>) {
      ComputeForKeysAhead<W>(job, bars, works, own, ring, notes);
    } else {
      ComputeForKeys<W>(job, bars, works, own, ring, notes);
    }
  }
}

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

  GradJob job = {};
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
  QueryGrad<W>(stream, n, job, grid);
}

}  // namespace

void AttentionGradHopper(Stream& stream, const AttentionArgs<bf16>& n, bool documents) {
  if (n.nope == 128) return Run<Widths<128, 64, 128>>(stream, n, documents);
  if (n.nope == 64) return Run<Widths<64, 32, 64>>(stream, n, documents);
  Run<Widths<48, 16, 64>>(stream, n, documents);
}

}  // namespace mneme::gpu
