// dq of attention's gradient on Hopper. A block owns 128 queries of one head and walks over the
// keys that they see, 64 at a time and from the last back, as the forward pass does; the gradients
// of the scores go from registers into their product with the keys. attention_grad_sm90.cu has the
// whole, and what bounds it.
#include "kernels/gpu/device/attention_grad_sm90.cuh"

namespace mneme::gpu::hopper {
namespace {

constexpr int kKeys = 64;  // of a tile
constexpr int kKeyBox = kKeys * kLine;

// Such tiles in flight: as many as shared memory holds.
template <class W>
constexpr int kKeyStages = W::kValue > 64 ? 3 : 4;

// Whether registers have room for a warpgroup's queries and dout.
template <class W>
constexpr bool kHeld = W::kValue <= 64;

template <class W>
__device__ void LoadForQueries(const GradJob& job, const GradMaps& maps,
                               Barriers<kKeyStages<W>>& bars, Work (&works)[2], uint32_t own,
                               uint32_t ring) {
  Ring<2> at;
  Ring<kKeyStages<W>> kv;
  uint32_t own_phase = 0;
  for (int index = blockIdx.x;; index = gridDim.x + atomicAdd(job.counter, 1)) {
    Work work = {-1, 0, 0};
    if (index < job.tiles * job.pairs) work = WorkAt(index, job.tiles, job.pairs, job.group);
    const int row = work.pair / static_cast<int>(job.heads);
    const int head = work.pair % static_cast<int>(job.heads);
    if (work.tile >= 0) {
      work.tile = job.tiles - 1 - work.tile;
      if (job.documents) {
        work.end = job.start[row * job.padded + int64_t{work.tile} * kTile] / kKeys;
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
    for (int tile = last / kKeys; tile >= work.end; --tile) {
      const uint32_t full = SharedAddress(&bars.full[kv.stage]);
      Wait(bars.empty[kv.stage], kv.phase ^ 1);
      BarrierExpect(full, kKeyBox * W::kBoxes);
      LoadKeyBoxes<W, kKeyBox>(maps, ring + kv.stage * kKeyBox * W::kBoxes, head, tile * kKeys, row,
                               full);
      kv.Next();
    }
  }
}

// Scores become probabilities.
template <int N>
__device__ __forceinline__ void Probabilities(float (&s)[N], float scale, const float (&lse)[2]) {
#pragma unroll
  for (int j = 0; j < N; ++j) s[j] = Exp2(fmaf(s[j], scale, -lse[j / 2 % 2]));
}
// Packed probabilities and their gradients dp become the packed gradients of the scores, without
// the scale.
template <int N>
__device__ __forceinline__ void ScoreGradients(uint32_t (&ds)[N / 2], const uint32_t (&p)[N / 2],
                                               const float (&dp)[N], const float (&delta)[2]) {
#pragma unroll
  for (int j = 0; j < N / 2; ++j) {
    const float d = delta[j % 2];
    const float2 x = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(p[j]));
    ds[j] = PackPair(x.x * (dp[2 * j] - d), x.y * (dp[2 * j + 1] - d));
  }
}

// The scores of the next tile are made while the gradients of this one's are worked out, and these
// enter dq under the next probabilities. What is read in a turn of the loop is also begun in it:
// else the compiler makes every product wait for the one before.
template <class W>
__device__ void ComputeForQueries(const GradJob& job, Barriers<kKeyStages<W>>& bars,
                                  const Work (&works)[2], uint32_t own, uint32_t ring) {
  constexpr int kN = kKeys;
  constexpr int kBox = kKeyBox;
  const int group = Uniform(threadIdx.x / 128) - 1;
  const int row_of_tile = 64 * group + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  const int column = threadIdx.x % 4 * 2;
  const float scale = job.scale * kLog2E;
  const uint32_t own_q = own + group * 64 * kLine;
  const uint32_t own_dout = own_q + W::kKeyBoxes * kOwnBox;
  Ring<2> at;
  Ring<kKeyStages<W>> kv;
  uint32_t own_phase = 0;
  const auto keys = [&](uint32_t stage) { return ring + stage * kBox * W::kBoxes; };
  for (;;) {
    const Work work = Next(bars, works, at);
    if (work.tile < 0) break;
    const int query = work.tile * kTile + row_of_tile;
    const int first_query = work.tile * kTile + 64 * group;
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
    uint32_t q[W::kWidth / 16][4], dout[W::kValue / 16][4];
    Wait(bars.own_full, own_phase);
    own_phase ^= 1;
    if constexpr (kHeld<W>) {
      LoadOperands<kOwnBox, W::kNope>(q, own_q);
      LoadOperands<kOwnBox, W::kValue>(dout, own_dout);
      Release(bars.own_empty);
    }
    float dq[W::kColumns / 2] = {};
    float s[kN / 2], dp[kN / 2];
    uint32_t p[kN / 4], ds[kN / 4];
    int tile = last / kN;
    // No query of this warpgroup sees it.
    if (Holds(tile * kN > first_query + 63)) {
      --tile;
      Wait(bars.full[kv.stage], kv.phase);
      Release(bars.empty[kv.stage]);
      kv.Next();
    }
    const auto scores = [&] {
      const uint64_t y = OperandOf(keys(kv.stage), 0, 1024);
      if constexpr (kHeld<W>) {
        OperandProducts<kBox, W::kNope>(s, q, y);
      } else {
        KeyProducts<W, kOwnBox, kBox>(s, OperandOf(own_q, 0, 1024), y);
      }
      ProductsCommit();
    };
    const auto probability_gradients = [&] {
      const uint64_t y = OperandOf(keys(kv.stage) + W::kKeyBoxes * kBox, 0, 1024);
      if constexpr (kHeld<W>) {
        OperandProducts<kBox, W::kValue>(dp, dout, y);
      } else {
        ValueProducts<W, kOwnBox, kBox>(dp, OperandOf(own_dout, 0, 1024), y);
      }
      ProductsCommit();
    };
    const auto probabilities = [&] {
      const int key = tile * kN;
      if (key + kN - 1 > first_query || key < all_from) MaskKeys(s, query, start, key + column);
      Probabilities(s, scale, lse);
      Pack(p, s);
    };
    Wait(bars.full[kv.stage], kv.phase);
    Settle(s);
    Settle(dq);
    ProductsBegin();
    scores();
    ProductsWait<0>();
    Settle(s);
    probabilities();
    uint32_t old = kv.stage;
    bool first = true;
    while (tile > work.end) {
      const uint32_t now = kv.stage;
      Settle(s);
      Settle(dp);
      ProductsBegin();
      probability_gradients();
      kv.Next();
      Wait(bars.full[kv.stage], kv.phase);
      ProductsBegin();
      scores();
      ProductsWait<1>();
      Settle(dp);
      if (!first) Release(bars.empty[old]);
      first = false;
      old = now;
      ScoreGradients(ds, p, dp, delta);
      Settle(dq);
      ProductsBegin();
      AddRowProducts(dq, ds, OperandOf(keys(now), kBox, 1024));
      ProductsCommit();
      ProductsWait<1>();
      Settle(s);
      --tile;
      probabilities();
    }
    Settle(dp);
    ProductsBegin();
    probability_gradients();
    ProductsWait<0>();
    Settle(dp);
    if (!first) Release(bars.empty[old]);
    ScoreGradients(ds, p, dp, delta);
    Settle(dq);
    ProductsBegin();
    AddRowProducts(dq, ds, OperandOf(keys(kv.stage), kBox, 1024));
    ProductsCommit();
    ProductsWait<0>();
    Settle(dq);
    Release(bars.empty[kv.stage]);
    if constexpr (!kHeld<W>) Release(bars.own_empty);
    kv.Next();
    const int64_t head = work.pair % job.heads;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t token = row * job.length + query + 8 * h;
      const bool inside = query + 8 * h < job.length;
      bf16* to = inside ? job.dq + (token * job.heads + head) * W::kWidth : nullptr;
      if constexpr (W::kColumns == W::kWidth) {
        StoreRow<0, W::kWidth>(dq, h, job.scale, to);
      } else {
        StoreRow<0, W::kNope>(dq, h, job.scale, to);
        StoreRow<W::kRopeAt, W::kColumns>(dq, h, job.scale, inside ? to + W::kNope : nullptr);
      }
    }
  }
}

template <class W>
constexpr int kQueryGradShared = W::kBoxes*(kOwnBox + kKeyStages<W> * kKeyBox);

template <class W>
__global__ void __launch_bounds__(kThreads, 1)
    HopperQueryGrad(const __grid_constant__ GradMaps maps, GradJob job) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ Barriers<kKeyStages<W>> bars;
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

}  // namespace

template <class W>
void QueryGrad(Stream& stream, const AttentionArgs<bf16>& n, const GradJob& job, dim3 grid) {
  Launch(stream, HopperQueryGrad<W>, grid, kThreads, kQueryGradShared<W>, MapsOf(n, kTile, kKeys),
         job);
}
template void QueryGrad<Widths<128, 64, 128>>(Stream&, const AttentionArgs<bf16>&, const GradJob&,
                                              dim3);
template void QueryGrad<Widths<64, 32, 64>>(Stream&, const AttentionArgs<bf16>&, const GradJob&,
                                            dim3);
template void QueryGrad<Widths<48, 16, 64>>(Stream&, const AttentionArgs<bf16>&, const GradJob&,
                                            dim3);

}  // namespace mneme::gpu::hopper
