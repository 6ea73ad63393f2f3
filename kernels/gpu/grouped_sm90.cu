// Grouped matrix products of the routed experts on Hopper: bf16 in, fp32 accumulation. A block
// keeps one 128 x 256 tile of c in the registers of two warpgroups while a third brings 64-wide
// slices of a and b into a ring in shared memory by bulk copies; two blocks (a cluster) are
// neighbours and send each other half of the operand that they share. Blocks stay and walk over all
// tiles of all groups in an order that keeps a group's operands in the L2 cache; where groups begin
// is read from the device, so nothing waits for the host.
//
// One tensor map serves all groups. Rows of a beyond a group's end give rows of c that are not
// stored; in the gradient of weights, where rows are summed over, they are zeroed in shared memory.
// The gradient is added to memory by the copy engine, once an element, or part by part in a fixed
// order where experts are crowded (Walk in device/grouped.cuh): same bits each run.
//
// Roofline, T 32,768, K 6, E 72, D 2,560, F 1,536 (196,608 rows): up 3.09e12 FLOP, 1.0 + 1.1 GB in,
// 1.8 GB out; down 1.55e12 FLOP, 0.6 + 0.6 GB in, 1.0 GB out. At 790 TFLOP/s 3.9 and 2.0 ms, memory
// 1.2 and 0.7 ms: bound by arithmetic; the gradient of w_down adds 2.3 GB to memory, 4.5 GB moved:
// 1.96 and 2.1 ms, bound by both. Sweep (E 64, D 512, F 256): up 1.03e11 FLOP, 0.13 ms, and 0.5 GB,
// 0.15 ms: bound by both. Measured on one H100 (copy 2.98 TB/s, matmul 790 TFLOP/s), TFLOP/s: 27B
// up 687-706, with gather and SwiGLU 608-631, down 651-670, dx 680, gradients of weights 616 (down)
// and 631-635 (up); sweep 527, 385, 412, 530, 354 and 444.
#include <algorithm>

#include "kernels/gpu/device/grouped_store.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/grouped_sm90.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;

// How shared memory is divided: stages of the ring, boxes that each warpgroup stores from.
constexpr int kStages = 4;
constexpr int kStoreBoxes = 2;
using Slices = Ring<kStages>;
constexpr int kBoxesAt = kStages * Slices::kBytes;
constexpr int kBarriersAt = kBoxesAt + 2 * kStoreBoxes * kBox;
constexpr int kOffsetsAt = kBarriersAt + 2 * kStages * 8;
constexpr int kOrderAt = kOffsetsAt + (kMaxGroups + 1) * 4;
constexpr int kBytes = kOrderAt + 4;
static_assert(kBytes <= 227 * 1024);

struct Arguments {
  int groups, m, n, k;
  const int64_t* offsets;
  bf16 *c, *act;
  GatherSource gather;
  int ranges;      // of kWeightGrad, if it walks in ranges: see Walk
  int32_t* begun;  // how many clusters began to walk in ranges
  int32_t* turns;  // of each tile's halves: how many parts have been added
};

__device__ int Steps(bool weight_grad, const Tile& t, int k) {
  return ((weight_grad ? t.rows : k) + kTileK - 1) / kTileK;
}

template <GroupedForm kForm>
__device__ Box BoxOfA(const Tile& t, int step, int i) {
  if (kForm == GroupedForm::kWeightGrad) return {t.m + i * 64, t.start + step * kTileK, 0, 0};
  return {step * kTileK, t.start + t.m + i * 64, 0, 0};
}

template <GroupedForm kForm>
__device__ Box BoxOfB(const Tile& t, int step, int i) {
  switch (kForm) {
    case GroupedForm::kRows:
      return {step * kTileK, t.n + i * 64, t.group, 0};
    case GroupedForm::kRowsAcross:
      return {t.n + i * 64, step * kTileK, t.group, 0};
    case GroupedForm::kSwiGlu:
      return {step * kTileK, t.n + i % 2 * 64, i / 2, t.group};
    default:
      return {t.n + i * 64, t.start + step * kTileK, 0, 0};
  }
}

// Bulk copies of what is not gathered.
template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__device__ void LoadBoxes(const CUtensorMap* map_a, const CUtensorMap* map_b, const Tile& t,
                          int step, const Slices& ring) {
  const auto box_a = [&](int i) { return BoxOfA<kForm>(t, step, i); };
  const auto box_b = [&](int i) { return BoxOfB<kForm>(t, step, i); };
  if constexpr (kGather != GroupedGather::kA)
    BringBoxes<kBoxesA, kPair == GroupedPair::kAlongN>(map_a, ring.Data(), ring.Full(), box_a);
  if constexpr (kGather != GroupedGather::kB)
    BringBoxes<kBoxesB, kPair == GroupedPair::kAlongM>(map_b, ring.DataB(), ring.Full(), box_b);
}

// Fills the ring: one thread, or a warpgroup where it gathers.
template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__device__ void Bring(const CUtensorMap* map_a, const CUtensorMap* map_b, const Arguments& args,
                      Walk<kForm, kPair> walk, Slices ring) {
  constexpr bool kGathers = kGather != GroupedGather::kNone;
  constexpr int kGathered = !kGathers ? 0 : kGather == GroupedGather::kA ? kBoxesA : kBoxesB;
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  Gatherer<kWeightGrad, kGather == GroupedGather::kB ? kBoxesB : kBoxesA> gatherer(args.gather);
  for (Tile t; walk.Next(t);) {
    const int steps = Steps(kWeightGrad, t, args.k);
    if constexpr (kGathers) gatherer.Begin(t, kGather == GroupedGather::kA ? t.m : t.n);
    for (int step = 0; step < steps; ++step, ring.Advance()) {
      ring.WaitEmpty();
      if (threadIdx.x == 0) {
        BarrierExpect(ring.Full(), ring.kBytes - kGathered * kBox);
        LoadBoxes<kForm, kPair, kGather>(map_a, map_b, t, step, ring);
      }
      if constexpr (kGathers) {
        gatherer.Copy(t, step, kGather == GroupedGather::kA ? ring.Data() : ring.DataB());
        BarrierArriveAfterCopies(ring.Full());
      }
    }
  }
}

// Zeroes rows `valid` and beyond of all boxes of a stage: they belong to the next group. Both
// computing warpgroups.
__device__ void ZeroTail(uint32_t stage, int valid, int thread) {
  const int units = (kBoxesA + kBoxesB) * (64 - valid) * 8;
  for (int i = thread; i < units; i += 32 * kComputeWarps) {
    const int line = i / 8, box = line / (64 - valid), row = valid + line % (64 - valid);
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(stage + box * kBox + row * 128 +
                                                                  i % 8 * 16),
                 "r"(0)
                 : "memory");
  }
  FenceAsync();
  NamedBarrier(3, 32 * kComputeWarps);
}

// 64 rows x 64 columns of bf16: the pairs of 32 consecutive accumulators.
__device__ void StoreBf16(Store& s, const Target& to, const uint32_t (&pairs)[16]) {
  const uint32_t box = s.Begin();
#pragma unroll
  for (int j = 0; j < 8; j += 2)
    StoreMatrices(box + s.At(j), pairs[2 * j], pairs[2 * j + 1], pairs[2 * j + 2],
                  pairs[2 * j + 3]);
  s.End();
  CopyOut(s, to, box);
  if (s.first()) StoresCommit();
}

template <GroupedForm kForm>
__device__ void StoreRows(Store& s, const CUtensorMap* map_c, const CUtensorMap* map_act,
                          const Arguments& args, const Tile& t, int first, float (&d)[128]) {
  const int valid = t.rows - first, row = t.start + first;
  if (valid <= 0) return;
  constexpr bool kSwiGlu = kForm == GroupedForm::kSwiGlu;
  uint32_t pairs[16];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Pack(d + 32 * i, pairs);
    StoreBf16(s,
              kSwiGlu ? HalfTarget(map_c, args.c, args.n, row, i / 2, t.n + i % 2 * 64, valid)
                      : WholeTarget(map_c, args.c, args.n, row, t.n + i * 64, valid),
              pairs);
  }
  if constexpr (kSwiGlu) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      SwiGlu(d + 32 * i, d + 64 + 32 * i, pairs);
      StoreBf16(s, WholeTarget(map_act, args.act, args.n, row, t.n + i * 64, valid), pairs);
    }
  }
}

// After a part of a gradient has been added: the next may be, where one waits.
__device__ void EndPart(const Store& s, const Tile& t, int32_t* turn) {
  if (!t.more || !s.first()) return;
  StoresDone();
  EndTurn(turn, t.turn + 1);
}

// Adds 64 x 256 in fp32 to the group's gradient, 32 columns at a time. turn: where parts of these
// sums take turns, the count of those that are in memory.
__device__ void AddGradient(Store& s, const CUtensorMap* map, const Tile& t, int first,
                            int32_t* turn, float (&d)[128]) {
  const int line = s.warp() * 16 + s.lane() / 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t box = s.Begin();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int unit = 2 * j + s.lane() % 4 / 2;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int l = line + 8 * h;
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(box + l * 128 + (unit ^ l % 8) * 16 +
                                                              s.lane() % 2 * 8),
                     "f"(d[16 * i + 4 * j + 2 * h]), "f"(d[16 * i + 4 * j + 2 * h + 1])
                     : "memory");
      }
    }
    s.End();
    if (s.first()) {
      if (i == 0 && t.turn > 0) AwaitTurn(turn, t.turn);
      AddBox(map, {t.n + i * 32, first, t.group, 0}, box);
      StoresCommit();
    }
  }
  EndPart(s, t, turn);
}

struct Maps {
  CUtensorMap a, b, c, act;
};

// Eight warps: products of the ring's stages into registers, then out.
template <GroupedForm kForm, GroupedPair kPair, bool kGathers>
__device__ void Compute(const Maps& maps, const Arguments& args, Walk<kForm, kPair> walk,
                        Slices ring, uint32_t boxes) {
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  constexpr bool kAcrossB = kWeightGrad || kForm == GroupedForm::kRowsAcross;
  const int thread = static_cast<int>(threadIdx.x) - 128, group = thread / 128;
  Store store{boxes + group * kStoreBoxes * kBox, thread % 128, 1 + group};
  float d[128];
  for (Tile t; walk.Next(t);) {
    const int steps = Steps(kWeightGrad, t, args.k), first = t.m + group * 64;
    Multiply<kWeightGrad, kAcrossB>(
        d, steps, ring, [&](int) { return ring.Data() + group * kBox; },
        [&](int step) {
          if (kGathers) FenceAsync();
          if (kWeightGrad && step == steps - 1 && t.rows % kTileK != 0)
            ZeroTail(ring.Data(), t.rows % kTileK, thread);
        },
        [](int) {});
    if constexpr (kWeightGrad) {
      AddGradient(store, &maps.c, t, first, args.turns + t.which * 2 + group, d);
    } else {
      StoreRows<kForm>(store, &maps.c, &maps.act, args, t, first, d);
    }
  }
  if (store.first()) StoresDone();
}

template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__global__ __cluster_dims__(2, 1, 1)
    __launch_bounds__(kGroupedThreads, 1) void Grouped(const __grid_constant__ Maps maps,
                                                       const __grid_constant__ Arguments args) {
  constexpr bool kGathers = kGather != GroupedGather::kNone;
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = SharedAddress(shared);
  const Slices ring{base, base + kBarriersAt};
  auto* offsets = reinterpret_cast<int32_t*>(shared + kOffsetsAt);
  for (int e = static_cast<int>(threadIdx.x); e <= args.groups; e += kGroupedThreads)
    offsets[e] = static_cast<int32_t>(args.offsets[e]);
  if (threadIdx.x == 0) {
    ring.Init(kGathers);
    BarrierInitFence();
  }
  __syncthreads();
  ClusterSync();
  int ranges = 0, cluster = ClusterOfGrid();
  const auto walk = [&] {
    return Walk<kForm, kPair>(offsets, nullptr, args.groups, args.m, args.n, ranges, cluster);
  };
  if (kWeightGrad && args.ranges > 0 && walk().RangesPay(args.ranges)) {
    ranges = args.ranges;
    cluster = OrderOfBeginning(args.begun, reinterpret_cast<int32_t*>(shared + kOrderAt));
  }
  if (threadIdx.x < 128) {
    RegistersDown<kWeightGrad ? 72 : 56>();
    if (kGathers || threadIdx.x == 0)
      Bring<kForm, kPair, kGather>(&maps.a, &maps.b, args, walk(), ring);
    __syncwarp();
  } else {
    RegistersUp<kWeightGrad ? 216 : 224>();
    Compute<kForm, kPair, kGathers>(maps, args, walk(), ring, base + kBoxesAt);
  }
  // Other blocks may still write here and signal here.
  ClusterSync();
}

// Places of tiles in a group of gradients of weights, a cluster each.
template <GroupedPair kPair>
int64_t PlacesOf(const GroupedProblem& p) {
  constexpr int kAlongM = kPair == GroupedPair::kAlongM ? 2 : 1, kAlongN = 3 - kAlongM;
  return CeilDiv(p.m, kTileM * kAlongM) * CeilDiv(p.n, kTileN * kAlongN);
}

// Into how many ranges rows are cut (see Walk), of at least kRangeRows if all are there: 0 where
// one cluster would be left without work in ten.
int RangesOf(int64_t pairs, int64_t places, int64_t rows) {
  constexpr int64_t kRangeRows = 256;
  const int64_t ranges = std::min(pairs / places, rows / kRangeRows);
  return ranges < 2 || ranges * places * 10 < pairs * 9 ? 0 : static_cast<int>(ranges);
}

template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
void QueueOne(Stream& stream, const GroupedProblem& p) {
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  const int pairs = QueueOf(stream).multiprocessors / 2;
  const int ranges =
      kWeightGrad && p.turns != nullptr ? RangesOf(pairs, PlacesOf<kPair>(p), p.rows) : 0;
  const auto rows = [&](const void* base, int64_t width) {
    return Bf16Map(base, {width, p.rows, 1, 1}, {64, 64, 1, 1});
  };
  Maps maps{};
  if (kGather != GroupedGather::kA) maps.a = rows(p.a, kWeightGrad ? p.m : p.k);
  switch (kForm) {
    case GroupedForm::kRows:
      maps.b = Bf16Map(p.b, {p.k, p.n, p.groups, 1}, {64, 64, 1, 1});
      break;
    case GroupedForm::kRowsAcross:
      maps.b = Bf16Map(p.b, {p.n, p.k, p.groups, 1}, {64, 64, 1, 1});
      break;
    case GroupedForm::kSwiGlu:
      maps.b = Bf16Map(p.b, {p.k, p.n, 2, p.groups}, {64, 64, 1, 1});
      break;
    case GroupedForm::kWeightGrad:
      if (kGather != GroupedGather::kB) maps.b = rows(p.b, p.n);
      break;
    default:
      break;
  }
  if (kWeightGrad) {
    maps.c = F32Map(p.c, {p.n, p.m, p.groups, 1}, {32, 64, 1, 1});
  } else if (kForm == GroupedForm::kSwiGlu) {
    maps.c = Bf16Map(p.c, {p.n, 2, p.rows, 1}, {64, 1, 64, 1});
    maps.act = rows(p.act, p.n);
  } else {
    maps.c = rows(p.c, p.n);
  }
  const Arguments args{.groups = static_cast<int>(p.groups),
                       .m = static_cast<int>(p.m),
                       .n = static_cast<int>(p.n),
                       .k = static_cast<int>(p.k),
                       .offsets = p.offsets,
                       .c = static_cast<bf16*>(p.c),
                       .act = static_cast<bf16*>(p.act),
                       .gather = SourceOf(p, kGather == GroupedGather::kB ? p.b : p.a,
                                          kGather == GroupedGather::kB ? p.n
                                          : kWeightGrad                ? p.m
                                                                       : p.k),
                       .ranges = ranges,
                       .begun = p.turns,
                       .turns = ranges > 0 ? p.turns + 1 : nullptr};
  Launch(stream, Grouped<kForm, kPair, kGather>, dim3(static_cast<unsigned>(2 * pairs)),
         kGroupedThreads, kBytes, maps, args);
}

template <GroupedForm kForm>
void QueuePlain(Stream& stream, GroupedPair pair, const GroupedProblem& p) {
  if (pair == GroupedPair::kAlongM) {
    QueueOne<kForm, GroupedPair::kAlongM, GroupedGather::kNone>(stream, p);
  } else {
    QueueOne<kForm, GroupedPair::kAlongN, GroupedGather::kNone>(stream, p);
  }
}

}  // namespace

bool GroupedSm90Takes(GroupedForm form, const GroupedProblem& p) {
  const int64_t inner = form == GroupedForm::kWeightGrad ? p.m : p.k;
  const bool gathers = form == GroupedForm::kSwiGlu || form == GroupedForm::kFeedForward ||
                       form == GroupedForm::kDownGrad;
  if (gathers && p.gather != GroupedGather::kA) return false;
  if (form == GroupedForm::kFeedForward &&
      (p.n > kFeedForwardWidth || p.groups > kFeedForwardGroups))
    return false;
  if (p.gather != GroupedGather::kNone && (p.rows >= 1 << 26 || p.per_row > 32)) return false;
  return p.groups <= kMaxGroups && p.n % 8 == 0 && inner % 8 == 0 && p.rows < (int64_t{1} << 31);
}

GroupedPair GroupedSm90Pair(const GroupedProblem& p) {
  if (p.gather == GroupedGather::kA) return GroupedPair::kAlongM;
  if (p.gather == GroupedGather::kB) return GroupedPair::kAlongN;
  const int64_t tiles = CeilDiv(p.n, kTileN);
  return tiles % 2 == 0 ? GroupedPair::kAlongN : GroupedPair::kAlongM;
}

void GroupedSm90(Stream& stream, GroupedForm form, GroupedPair pair, const GroupedProblem& p) {
  constexpr auto kM = GroupedPair::kAlongM, kN = GroupedPair::kAlongN;
  constexpr auto kA = GroupedGather::kA, kB = GroupedGather::kB;
  switch (form) {
    case GroupedForm::kRows:
      return QueuePlain<GroupedForm::kRows>(stream, pair, p);
    case GroupedForm::kRowsAcross:
      return QueuePlain<GroupedForm::kRowsAcross>(stream, pair, p);
    case GroupedForm::kSwiGlu:
      return QueueOne<GroupedForm::kSwiGlu, kM, kA>(stream, p);
    case GroupedForm::kDownGrad:
      return DownGradSm90(stream, p);
    case GroupedForm::kFeedForward:
      return FeedForwardSm90(stream, p);
    case GroupedForm::kWeightGrad:
      if (p.gather == kA) return QueueOne<GroupedForm::kWeightGrad, kM, kA>(stream, p);
      if (p.gather == kB) return QueueOne<GroupedForm::kWeightGrad, kN, kB>(stream, p);
      return QueuePlain<GroupedForm::kWeightGrad>(stream, pair, p);
  }
}

}  // namespace mneme::gpu
