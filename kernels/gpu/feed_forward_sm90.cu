// The routed experts' forward on Hopper in one kernel, where an expert is at most 256 wide: x rows
// to gate and up, SwiGLU, and down again, without act passing through memory. A block keeps 128
// rows of act in shared memory, 64 KB: two passes of 128 gates and their ups fill them, and then
// they are the left operand of the product with W_down, 256 columns a pass. All weights go through
// one ring; rows of x are gathered into it; a pair of blocks (a cluster) shares the weights. As in
// grouped_sm90.cu, blocks stay and walk over the rows of all groups.
//
// Roofline, sweep shape (T 32,768, K 6, E 64, D 512, F 256: 196,608 rows): 1.55e11 FLOP, 0.196 ms
// at 790 TFLOP/s; memory 0.03 + 0.05 GB in, 0.4 GB out (gates and ups for the gradient, and rows):
// 0.16 ms at 3 TB/s. In two kernels act costs 0.2 GB more.
#include "kernels/gpu/device/grouped.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/grouped_sm90.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;

constexpr int kStages = 3;
constexpr int kBoxesAct = kFeedForwardWidth / 64;  // of a warpgroup
constexpr int kPieceBytes = 16 * 128;              // what a warp stores at once
constexpr int kActAt = kStages * Ring<kStages>::kBytes;
constexpr int kPiecesAt = kActAt + 2 * kBoxesAct * kBox;
constexpr int kBarriersAt = kPiecesAt + kComputeWarps * kPieceBytes;
constexpr int kOffsetsAt = kBarriersAt + 2 * kStages * 8;
constexpr int kListAt = kOffsetsAt + (static_cast<int>(kFeedForwardGroups) + 1) * 4;
constexpr int kBytes = kListAt + static_cast<int>(sizeof(Halves));
static_assert(kBytes <= 227 * 1024);

struct Arguments {
  int groups, width, hidden;  // width: of an expert
  const int64_t* offsets;
  GatherSource x;
  bf16 *gate_up, *rows;
};

struct Maps {
  CUtensorMap up, down;
};

// Tiles of rows; columns are walked inside.
using RowWalk = Walk<GroupedForm::kFeedForward, GroupedPair::kAlongM>;

// 256 rows of weights, of which each block of the pair brings a half for both where they share.
template <class F>
__device__ void BringWeights(const CUtensorMap* map, const Tile& t, const Ring<kStages>& ring,
                             F&& box) {
  BarrierExpect(ring.Full(), kBoxesB * kBox);
  if (t.shared) return BringBoxes<kBoxesB, true>(map, ring.DataB(), ring.Full(), box);
  BringBoxes<kBoxesB, false>(map, ring.DataB(), ring.Full(), box);
}

// Fills the ring: a warpgroup.
__device__ void Bring(const Maps& maps, const Arguments& args, RowWalk walk, Ring<kStages> ring) {
  Gatherer<false, kBoxesA> gatherer(args.x);
  for (Tile t; walk.Next(t);) {
    gatherer.Begin(t, 0);
    for (int n = 0; n < args.width; n += kTileN / 2) {
      for (int k = 0; k < args.hidden; k += kTileK, ring.Advance()) {
        ring.WaitEmpty();
        if (threadIdx.x == 0) {
          BringWeights(&maps.up, t, ring, [&](int i) {
            return Box{k, n + i % 2 * 64, i / 2, t.group};
          });
        }
        gatherer.Copy(t, k / kTileK, ring.Data());
        BarrierArriveAfterCopies(ring.Full());
      }
    }
    for (int n = 0; n < args.hidden; n += kTileN) {
      for (int k = 0; k < args.width; k += kTileK, ring.Advance()) {
        ring.WaitEmpty();
        if (threadIdx.x == 0)
          BringWeights(&maps.down, t, ring, [&](int i) { return Box{k, n + i * 64, t.group, 0}; });
        BarrierArrive(ring.Full());
      }
    }
  }
}

// 16 lines x 64 columns of a warp into shared memory, as a box has them.
__device__ __forceinline__ void PutLines(uint32_t lines, const uint32_t (&pairs)[16]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, line = lane % 16;
#pragma unroll
  for (int j = 0; j < 8; j += 2)
    StoreMatrices(lines + line * 128 + ((j + lane / 16) ^ line % 8) * 16, pairs[2 * j],
                  pairs[2 * j + 1], pairs[2 * j + 2], pairs[2 * j + 3]);
}

// Part of a matrix in memory: the rows and columns from `at` on that exist (less than 1: none).
struct Window {
  bf16* at;
  int64_t pitch;
  int rows, columns;
};

// 64 columns of a warp's rows out, through its piece of shared memory: whole lines of memory at a
// time.
__device__ __forceinline__ void Store(uint32_t piece, const Window& to, uint64_t policy,
                                      const float* d) {
  const int lane = static_cast<int>(threadIdx.x) % 32, unit = lane % 8;
  uint32_t pairs[16];
  Pack(d, pairs);
  __syncwarp();  // the last have left the piece
  PutLines(piece, pairs);
  __syncwarp();
  uint4 value[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int line = 4 * r + lane / 8;
    value[r] = LoadUnit(piece + line * 128 + (unit ^ line % 8) * 16);
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int line = 4 * r + lane / 8;
    if (line < to.rows && unit * 8 < to.columns)
      StoreUnit(to.at + line * to.pitch + unit * 8, value[r], policy);
  }
}

// Eight warps, 64 rows a warpgroup.
__device__ void Compute(const Arguments& args, RowWalk walk, Ring<kStages> ring, uint32_t base) {
  const int thread = static_cast<int>(threadIdx.x) - 128, group = thread / 128, warp = thread / 32;
  const uint32_t act = base + kActAt + group * kBoxesAct * kBox;
  const uint32_t act_lines = act + warp % 4 * kPieceBytes;
  const uint32_t piece = base + kPiecesAt + warp * kPieceBytes;
  const int width = args.width, hidden = args.hidden;
  // x is gathered from the cache again and again; what leaves is not read before it is full.
  const uint64_t policy = PassThroughCache();
  const auto nothing = [](int) {};
  float d[128];
  for (Tile t; walk.Next(t);) {
    const int first = t.m + 16 * warp, rows = t.rows - first;
    const int64_t row = t.start + first;
    bf16* gates = args.gate_up + row * 2 * width;
    for (int n = 0; n < width; n += kTileN / 2) {
      Multiply<false, false>(
          d, (hidden + kTileK - 1) / kTileK, ring, [&](int) { return ring.Data() + group * kBox; },
          [](int) { FenceAsync(); }, nothing);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n + i % 2 * 64;
        Store(piece, {gates + i / 2 * width + column, 2 * int64_t{width}, rows, width - column},
              policy, d + 32 * i);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t pairs[16];
        SwiGlu(d + 32 * i, d + 64 + 32 * i, pairs);
        PutLines(act_lines + (n / 64 + i) * kBox, pairs);
      }
    }
    FenceAsync();
    NamedBarrier(1 + group, 128);
    for (int n = 0; n < hidden; n += kTileN) {
      Multiply<false, false>(
          d, (width + kTileK - 1) / kTileK, ring, [&](int step) { return act + step * kBox; },
          nothing, nothing);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n + 64 * i;
        Store(piece, {args.rows + row * hidden + column, hidden, rows, hidden - column}, policy,
              d + 32 * i);
      }
    }
  }
}

__global__ __cluster_dims__(2, 1, 1)
    __launch_bounds__(kGroupedThreads, 1) void FeedForward(const __grid_constant__ Maps maps,
                                                           const __grid_constant__ Arguments args) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = SharedAddress(shared);
  const Ring<kStages> ring{base, base + kBarriersAt};
  auto* offsets = reinterpret_cast<int32_t*>(shared + kOffsetsAt);
  auto* list = reinterpret_cast<Halves*>(shared + kListAt);
  for (int e = static_cast<int>(threadIdx.x); e <= args.groups; e += kGroupedThreads)
    offsets[e] = static_cast<int32_t>(args.offsets[e]);
  if (threadIdx.x == 0) {
    ring.Init(true);
    BarrierInitFence();
  }
  __syncthreads();
  RowWalk::List(offsets, args.groups, list);
  __syncthreads();
  ClusterSync();
  const RowWalk walk(offsets, list, args.groups, 0, 1, 0, ClusterOfGrid());
  if (threadIdx.x < 128) {
    RegistersDown<56>();
    Bring(maps, args, walk, ring);
  } else {
    RegistersUp<224>();
    Compute(args, walk, ring, base);
  }
  // The other block may still write here and signal here.
  ClusterSync();
}

}  // namespace

void FeedForwardSm90(Stream& stream, const GroupedProblem& p) {
  const Maps maps{.up = Bf16Map(p.b, {p.k, p.n, 2, p.groups}, {64, 64, 1, 1}),
                  .down = Bf16Map(p.b2, {p.n, p.k, p.groups, 1}, {64, 64, 1, 1})};
  const Arguments args{.groups = static_cast<int>(p.groups),
                       .width = static_cast<int>(p.n),
                       .hidden = static_cast<int>(p.k),
                       .offsets = p.offsets,
                       .x = SourceOf(p, p.a, p.k),
                       .gate_up = static_cast<bf16*>(p.c),
                       .rows = static_cast<bf16*>(p.out)};
  const int blocks = QueueOf(stream).multiprocessors / 2 * 2;
  Launch(stream, FeedForward, dim3(static_cast<unsigned>(blocks)), kGroupedThreads, kBytes, maps,
         args);
}

}  // namespace mneme::gpu
