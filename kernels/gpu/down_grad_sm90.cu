// The routed experts' gradient back through W_down and SwiGLU on Hopper in one kernel (kDownGrad of
// grouped_sm90.h). Its epilogue asks as much as its products: for each element of z it reads a gate
// and an up and writes their gradients and act. So the two computing warpgroups have tiles of their
// own, 64 x 256, and take turns at the tensor cores: one's epilogue runs under the other's
// products. A pair of blocks (a cluster) shares the weights; rows are gathered. As in
// grouped_sm90.cu, blocks stay and walk over the rows of all groups.
//
// Roofline, sweep shape (T 32,768, K 6, E 64, D 512, F 256: 196,608 rows): 5.2e10 FLOP, 0.065 ms at
// 790 TFLOP/s; memory 0.03 + 0.02 + 0.2 GB in, 0.2 + 0.1 GB out: 0.19 ms at 2.9 TB/s.
#include "kernels/gpu/device/grouped_store.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/grouped_sm90.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;

static_assert(kTileN == kInnerColumns);

constexpr int kStages = 3;
using Slices = Ring<kStages, 1>;
// Of a warpgroup: gates and ups of two pieces of 64 columns, act of two.
constexpr int kStoreBoxes = 6;
constexpr int kBoxesAt = kStages * Slices::kBytes;
constexpr int kBarriersAt = kBoxesAt + 2 * kStoreBoxes * kBox;
constexpr int kOffsetsAt = kBarriersAt + (2 * kStages + 4) * 8;
constexpr int kBytes = kOffsetsAt + (kMaxGroups + 1) * 4;
static_assert(kBytes <= 227 * 1024);

struct Arguments {
  int groups, n, k;
  const int64_t* offsets;
  bf16 *c, *act;
  GatherSource dy;
  const float* weights;
  float* inner;
  int64_t capacity;
};

struct Maps {
  CUtensorMap b, c, act, gate_up;
};

using RowWalk = Walk<GroupedForm::kDownGrad, GroupedPair::kAlongM>;

// Fills the ring: a warpgroup.
__device__ void Bring(const CUtensorMap* weights, const Arguments& args, RowWalk walk,
                      Slices ring) {
  Gatherer<false, 1> gatherer(args.dy);
  const int steps = (args.k + kTileK - 1) / kTileK;
  for (Tile t; walk.Next(t);) {
    gatherer.Begin(t, 0);
    for (int step = 0; step < steps; ++step, ring.Advance()) {
      ring.WaitEmpty();
      if (threadIdx.x == 0) {
        BarrierExpect(ring.Full(), kBoxesB * kBox);
        BringBoxes<kBoxesB, true>(weights, ring.DataB(), ring.Full(), [&](int i) {
          return Box{t.n + i * 64, step * kTileK, t.group, 0};
        });
      }
      gatherer.Copy(t, step, ring.Data());
      BarrierArriveAfterCopies(ring.Full());
    }
  }
}

// What follows the products of a tile, in pieces of 64 columns: gates and ups come into one of two
// slots of two boxes, the first two pieces while the products run; their gradients replace them
// there and are copied out.
class Epilogue {
 public:
  __device__ Epilogue(const Store& store, uint32_t barriers, const Maps& maps,
                      const Arguments& args)
      : s_(store), barriers_(barriers), maps_(maps), args_(args) {}

  // Before the products.
  __device__ void BeginTile(const Tile& t) {
    valid_ = t.rows - t.m;
    row_ = t.start + t.m;
#pragma unroll
    for (int h = 0; h < 2; ++h) slot_[h] = Line(h) < valid_ ? args_.dy.slots[row_ + Line(h)] : -1;
  }

  // While they run: the weights of this thread's two rows, and the first two pieces, into boxes
  // that the last tile is done with.
  __device__ void Request(const Tile& t) {
    if (valid_ <= 0) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      weight_[h] = slot_[h] >= 0 ? args_.weights[slot_[h]] : 0.0f;
      inner_[h] = 0;
    }
    if (s_.first()) {
      StoresRead<0>();
      RequestPiece(t, 0);
      RequestPiece(t, 1);
    }
    __syncwarp();
  }

  __device__ void EndTile(const Tile& t, float (&z)[128]) {
    if (valid_ <= 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t gates = s_.boxes + i % 2 * 2 * kBox, ups = gates + kBox;
      const uint32_t acts = s_.boxes + (4 + i % 2) * kBox;
      BarrierWait(barriers_ + i % 2 * 8, phases_ >> i % 2 & 1);
      phases_ ^= 1u << i % 2;
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        if (j == 4 && (i == 1 || i == 2)) RequestNext(t, i + 1);
        Piece(j, gates, ups, acts, &z[32 * i + 4 * j]);
      }
      s_.End();
      const int column = t.n + 64 * i, n = args_.n;
      CopyOut(s_, HalfTarget(&maps_.c, args_.c, n, row_, 0, column, valid_), gates);
      CopyOut(s_, HalfTarget(&maps_.c, args_.c, n, row_, 1, column, valid_), ups);
      CopyOut(s_, WholeTarget(&maps_.act, args_.act, n, row_, column, valid_), acts);
      if (s_.first()) StoresCommit();
    }
    if (valid_ < 64) s_.Sync();  // boxes have been read by all before they are filled again
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = inner_[h];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (s_.lane() % 4 == 0 && Line(h) < valid_)
        args_.inner[t.n / kTileN * args_.capacity + row_ + Line(h)] = sum;
    }
  }

 private:
  __device__ int Line(int h) const { return s_.warp() * 16 + s_.lane() / 4 + 8 * h; }

  __device__ void RequestPiece(const Tile& t, int i) const {
    const uint32_t barrier = barriers_ + i % 2 * 8, box = s_.boxes + i % 2 * 2 * kBox;
    BarrierExpect(barrier, 2 * kBox);
    LoadBox(box, &maps_.gate_up, {t.n + 64 * i, 0, row_, 0}, barrier);
    LoadBox(box + kBox, &maps_.gate_up, {t.n + 64 * i, 1, row_, 0}, barrier);
  }

  // Piece i, into the slot that the last piece is leaving.
  __device__ void RequestNext(const Tile& t, int i) const {
    if (valid_ < 64) s_.Sync();  // threads copied it out, not the engine
    if (s_.first()) {
      StoresRead<0>();
      RequestPiece(t, i);
    }
    __syncwarp();
  }

  // Columns [8 j, 8 (j + 2)): z are their accumulators.
  __device__ void Piece(int j, uint32_t gates, uint32_t ups, uint32_t acts, const float* z) {
    uint32_t gate[4], up[4], act[4];
    LoadMatrices(gates + s_.At(j), gate);
    LoadMatrices(ups + s_.At(j), up);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float weight = weight_[m % 2];
      const float2 g = Unpack(gate[m]), u = Unpack(up[m]), s = Sigmoids(g.x, g.y);
      const float z0 = z[2 * m], z1 = z[2 * m + 1];
      const float silu0 = g.x * s.x, silu1 = g.y * s.y;
      const float h0 = silu0 * u.x, h1 = silu1 * u.y;
      inner_[m % 2] += z0 * h0 + z1 * h1;
      act[m] = Pack(weight * h0, weight * h1);
      const float d0 = weight * z0, d1 = weight * z1;
      gate[m] = Pack(d0 * u.x * (s.x + silu0 * (1 - s.x)), d1 * u.y * (s.y + silu1 * (1 - s.y)));
      up[m] = Pack(d0 * silu0, d1 * silu1);
    }
    StoreMatrices(gates + s_.At(j), gate[0], gate[1], gate[2], gate[3]);
    StoreMatrices(ups + s_.At(j), up[0], up[1], up[2], up[3]);
    StoreMatrices(acts + s_.At(j), act[0], act[1], act[2], act[3]);
  }

  const Store& s_;
  const uint32_t barriers_;  // of the two slots
  const Maps& maps_;
  const Arguments& args_;
  uint32_t phases_ = 0;
  int valid_ = 0, row_ = 0, slot_[2];
  float weight_[2], inner_[2];
};

// Two warpgroups, every other tile each.
__device__ void Compute(const Maps& maps, const Arguments& args, RowWalk walk, Slices ring,
                        uint32_t base) {
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int group = __shfl_sync(0xffffffffu, thread / 128, 0);
  const int steps = (args.k + kTileK - 1) / kTileK;
  const Store store{base + kBoxesAt + group * kStoreBoxes * kBox, thread % 128, 1 + group};
  Epilogue epilogue(store, base + kBarriersAt + (2 * kStages + 2 * group) * 8, maps, args);
  float d[128];
  if (group == 1) PassTurn(group);
  int turn = 0;
  for (Tile t; walk.Next(t); turn ^= 1) {
    if (turn != group) {
      ring.Skip(steps);
      continue;
    }
    epilogue.BeginTile(t);
    TakeTurn(group);
    Multiply<false, true>(
        d, steps, ring, [&](int) { return ring.Data(); }, [](int) { FenceAsync(); },
        [&](int step) {
          if (step == 0) epilogue.Request(t);
          if (step == steps - 1) PassTurn(group);
        });
    epilogue.EndTile(t, d);
  }
  if (store.first()) StoresDone();
}

__global__ __cluster_dims__(2, 1, 1)
    __launch_bounds__(kGroupedThreads, 1) void DownGrad(const __grid_constant__ Maps maps,
                                                        const __grid_constant__ Arguments args) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = SharedAddress(shared);
  const Slices ring{base, base + kBarriersAt};
  auto* offsets = reinterpret_cast<int32_t*>(shared + kOffsetsAt);
  for (int e = static_cast<int>(threadIdx.x); e <= args.groups; e += kGroupedThreads)
    offsets[e] = static_cast<int32_t>(args.offsets[e]);
  if (threadIdx.x == 0) {
    ring.Init(true, kComputeWarps / 2);
    for (int i = 0; i < 4; ++i) BarrierInit(ring.Empty(kStages + i), 1);
    BarrierInitFence();
  }
  __syncthreads();
  ClusterSync();
  const RowWalk walk(offsets, nullptr, args.groups, 0, args.n, 0, ClusterOfGrid());
  if (threadIdx.x < 128) {
    RegistersDown<56>();
    Bring(&maps.b, args, walk, ring);
  } else {
    RegistersUp<224>();
    Compute(maps, args, walk, ring, base);
  }
  // The other block may still write here and signal here.
  ClusterSync();
}

}  // namespace

void DownGradSm90(Stream& stream, const GroupedProblem& p) {
  const auto halves = [&](const void* base) {
    return Bf16Map(base, {p.n, 2, p.rows, 1}, {64, 1, 64, 1});
  };
  const Maps maps{.b = Bf16Map(p.b, {p.n, p.k, p.groups, 1}, {64, 64, 1, 1}),
                  .c = halves(p.c),
                  .act = Bf16Map(p.act, {p.n, p.rows, 1, 1}, {64, 64, 1, 1}),
                  .gate_up = halves(p.gate_up)};
  const Arguments args{.groups = static_cast<int>(p.groups),
                       .n = static_cast<int>(p.n),
                       .k = static_cast<int>(p.k),
                       .offsets = p.offsets,
                       .c = static_cast<bf16*>(p.c),
                       .act = static_cast<bf16*>(p.act),
                       .dy = SourceOf(p, p.a, p.k),
                       .weights = p.weights,
                       .inner = p.inner,
                       .capacity = p.rows};
  const int blocks = QueueOf(stream).multiprocessors / 2 * 2;
  Launch(stream, DownGrad, dim3(static_cast<unsigned>(blocks)), kGroupedThreads, kBytes, maps,
         args);
}

}  // namespace mneme::gpu
