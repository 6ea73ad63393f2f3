// What the grouped products on Hopper share (grouped_sm90.cu, feed_forward_sm90.cu,
// down_grad_sm90.cu): tiles of 128 x 256 (of kDownGrad 64 x 256) and their order, the ring of
// slices in shared memory, gathers into it, and the products of its slices. Device code for sm_90a
// only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/gpu/device/hopper.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/grouped_sm90.h"

namespace mneme::gpu::hopper {

inline constexpr int kTileM = 128, kTileN = 256, kTileK = 64;  // K: of a slice, of a step
inline constexpr int kBox = 64 * 128;                          // bytes of a box
inline constexpr int kBoxesA = kTileM / 64, kBoxesB = kTileN / 64;
inline constexpr int kComputeWarps = 8;
inline constexpr int kGroupedThreads = 128 + 32 * kComputeWarps;  // a warpgroup loads
inline constexpr int kMaxGroups = kGroupedSm90MaxGroups;
inline constexpr int kBandRows = 4096;  // rows whose tiles are walked before the next rows begin

struct Tile {
  int group, start, rows;  // rows of the group, from row `start` on
  int m, n;                // first row and column of this block's tile; m counts from `start`
  bool shared;  // of kFeedForward: the pair's tiles are neighbours, with weights in common
  // Of a gradient of weights in ranges: which tile of all it is; how many other parts of it are to
  // be added to memory before; whether a further one waits for this.
  int which, turn;
  bool more;
};

// The groups that end in the first half of a pair of tiles, in shared memory: see Walk.
struct Halves {
  uint16_t groups[kFeedForwardGroups], count;  // rising
};

// This pair of blocks among those of the grid.
__device__ inline int ClusterOfGrid() { return static_cast<int>(blockIdx.x / 2); }

// How many clusters of the kernel began before this pair of blocks. Their numbers in the grid do
// not say: beside the kernels of other streams a later one may run while an earlier one waits for
// room. count: 0 before the kernel. place: 4 bytes of shared memory, the same in both blocks. By
// all threads of both.
__device__ inline int OrderOfBeginning(int32_t* count, int32_t* place) {
  if (ClusterRank() == 0 && threadIdx.x == 0) {
    *place = atomicAdd(count, 1);
    asm volatile(
        "{\n .reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, 1;\n"
        "st.shared::cluster.s32 [there], %1;\n"
        "}" ::"r"(SharedAddress(place)),
        "r"(*place)
        : "memory");
  }
  ClusterSync();
  return *place;
}

// Tiles in order, a pair of blocks (a cluster) each. Both the loading and the computing threads
// walk. Of kFeedForward, groups that end in the first half of a pair leave these halves to the end
// of the walk, where two of them make a pair that shares nothing.
//
// Gradients of weights that have few tiles a group can walk in ranges: all rows, in steps of 64,
// are cut into as many ranges of one length as there are clusters for a tile's place in its group,
// and a cluster walks over the groups of its range at its place. However groups differ, all have
// the same work; a group that lies in several ranges gets its sum in parts, the last range's first
// (what a range begins with, it is done with early), so that bits do not depend on time.
template <GroupedForm kForm, GroupedPair kPair>
class Walk {
 public:
  static constexpr bool kHalves = kForm == GroupedForm::kFeedForward;

  // Fills the list of kHalves: all threads of the block.
  __device__ static void List(const int32_t* offsets, int groups, Halves* list) {
    const auto listed = [&](int e) { return HasHalf(offsets[e + 1] - offsets[e]); };
    for (int e = static_cast<int>(threadIdx.x); e < groups; e += kGroupedThreads) {
      int before = 0;
      for (int o = 0; o < e; ++o) before += listed(o);
      if (listed(e)) list->groups[before] = static_cast<uint16_t>(e);
      if (e == groups - 1) list->count = static_cast<uint16_t>(before + listed(e));
    }
  }

  // offsets: i32 [groups + 1], borrowed. list: of kHalves. m: of gradients of weights. ranges: 0,
  // or how many. cluster: ClusterOfGrid, in ranges OrderOfBeginning.
  __device__ Walk(const int32_t* offsets, const Halves* list, int groups, int m, int n, int ranges,
                  int cluster)
      : offsets_(offsets),
        list_(list),
        groups_(groups),
        m_(m),
        columns_((n + kWidth * kAlongN - 1) / (kWidth * kAlongN)),
        rank_(static_cast<int>(ClusterRank())),
        tile_(cluster),
        ranges_(ranges) {
    if (kForm == GroupedForm::kWeightGrad && ranges > 0) BeginRanges();
  }

  // Whether ranges pay: where, tile by tile, some cluster would have 1.4 times as much to do as
  // they give each. They read what is gathered at different times, and the memory feels it. All
  // threads of a block; each reckons for a cluster.
  __device__ bool RangesPay(int ranges) const {
    const int places = PlacesOf(m_, columns_), clusters = static_cast<int>(gridDim.x / 2);
    const auto cluster = static_cast<int>(threadIdx.x);
    int first = 0, mine = 0, all = 0;  // first: whose is the first tile of the group
    for (int e = 0; e < groups_ && cluster < clusters; ++e) {
      const int steps = StepsOf(e);
      if (steps == 0) continue;
      const int place = cluster - first + (cluster < first ? clusters : 0);
      if (place < places) mine += steps;
      all += steps;
      first += places;
      if (first >= clusters) first -= clusters;
    }
    return __syncthreads_or(int64_t{5} * ranges * mine > int64_t{7} * all);
  }

  // False when there is none left.
  __device__ bool Next(Tile& t) {
    if (kForm == GroupedForm::kWeightGrad && ranges_ > 0) return NextPart(t);
    while (at_ < groups_ && tile_ - base_ >= Count(at_)) base_ += Count(at_++);
    if (at_ < groups_) {
      Whole(t, at_, tile_ - base_);
    } else if (!kHalves || !TwoHalves(t, tile_ - base_)) {
      return false;
    }
    tile_ += static_cast<int>(gridDim.x / 2);
    return true;
  }

 private:
  static constexpr int kAlongM = kPair == GroupedPair::kAlongM ? 2 : 1, kAlongN = 3 - kAlongM;
  static constexpr int kRows = kForm == GroupedForm::kDownGrad ? kTileM / 2 : kTileM;
  static constexpr int kHeight = kRows * kAlongM;
  static constexpr int kWidth = kForm == GroupedForm::kSwiGlu ? kTileN / 2 : kTileN;
  static constexpr int kBand = kBandRows / kHeight;

  __device__ static int PlacesOf(int m, int columns) {
    return (m + kHeight - 1) / kHeight * columns;
  }
  __device__ static bool HasHalf(int rows) {
    return rows % kHeight != 0 && rows % kHeight <= kTileM;
  }
  __device__ int Height(int group) const {
    const int rows = offsets_[group + 1] - offsets_[group];
    if (kForm == GroupedForm::kWeightGrad) return rows == 0 ? 0 : (m_ + kHeight - 1) / kHeight;
    return (rows + (kHalves ? kHeight - kTileM : kHeight) - 1) / kHeight;
  }
  __device__ int Count(int group) const { return Height(group) * columns_; }

  __device__ void SetGroup(Tile& t, int group) const {
    t.group = group;
    t.start = offsets_[group];
    t.rows = offsets_[group + 1] - t.start;
  }
  __device__ void Whole(Tile& t, int group, int in_group) const {
    SetGroup(t, group);
    const int band = in_group / (kBand * columns_);
    const int in_band = in_group - band * kBand * columns_;
    const int rows_here = min(kBand, Height(group) - band * kBand);
    const int row = band * kBand + in_band % rows_here, column = in_band / rows_here;
    Place(t, row, column);
    t.shared = true;
    t.which = t.turn = 0;
    t.more = false;
  }
  __device__ bool TwoHalves(Tile& t, int index) const {
    const int first = index / columns_ * 2;
    if (first >= list_->count) return false;
    const bool alone = first + rank_ >= list_->count;
    SetGroup(t, list_->groups[alone ? first : first + rank_]);
    t.m = t.rows / kHeight * kHeight;
    if (alone) t.rows = 0;
    t.n = index % columns_ * kWidth;
    t.shared = false;
    return true;
  }
  __device__ void Place(Tile& t, int row, int column) const {
    t.m = (kAlongM * row + rank_ / kAlongN) * kRows;
    t.n = (kAlongN * column + rank_ % kAlongN) * kWidth;
  }

  // In ranges: tile_ is the place in every group, base_ counts the steps before group at_.
  __device__ int StepsOf(int group) const {
    return (offsets_[group + 1] - offsets_[group] + kTileK - 1) / kTileK;
  }
  __device__ void BeginRanges() {
    for (int e = 0; e < groups_; ++e) steps_ += StepsOf(e);
    places_ = PlacesOf(m_, columns_);
    // The last range by the clusters that began first: whoever waits for a later range's part waits
    // for a cluster that runs, also where kernels of other streams leave no room for all.
    const int at = tile_ / places_;
    range_ = ranges_ - 1 - at;
    tile_ -= at * places_;
  }
  __device__ int RangeBegin(int range) const {
    return static_cast<int>(int64_t{range} * steps_ / ranges_);
  }
  __device__ int RangeOf(int step) const {
    return static_cast<int>((int64_t{step + 1} * ranges_ - 1) / steps_);
  }
  __device__ bool NextPart(Tile& t) {
    if (range_ < 0) return false;
    const int begin = RangeBegin(range_), end = RangeBegin(range_ + 1);
    for (; at_ < groups_ && base_ < end; ++at_) {
      const int steps = StepsOf(at_), base = base_;
      const int first = max(begin - base, 0), last = min(end - base, steps);
      base_ += steps;
      if (first >= last) continue;
      SetGroup(t, at_);
      t.start += first * kTileK;
      t.rows = min(t.rows - first * kTileK, (last - first) * kTileK);
      const int height = places_ / columns_;
      Place(t, tile_ % height, tile_ / height);
      t.which = (at_ * places_ + tile_) * 2 + rank_;
      t.turn = RangeOf(base + steps - 1) - range_;
      t.more = first > 0;
      ++at_;
      return true;
    }
    return false;
  }

  const int32_t* offsets_;
  const Halves* list_;
  const int groups_, m_, columns_, rank_;
  int tile_, ranges_, at_ = 0, base_ = 0;
  int places_ = 0, range_ = 0, steps_ = 0;
};

// The ring: barriers `full` count bytes, barriers `empty` the warps that are done, of both blocks.
// kLeft: boxes of the left operand.
template <int kStages, int kLeft = kBoxesA>
struct Ring {
  static constexpr int kBytes = (kLeft + kBoxesB) * kBox;  // of a stage

  uint32_t stages, barriers;  // addresses in shared memory: kStages · kBytes, 2 kStages · 8
  int stage = 0;              // at hand
  uint32_t phase = 0;         // parity of how often the ring was round

  // By one thread. gathers: all threads of the loading warpgroup arrive, after their copies. warps:
  // of a block, that use a stage.
  __device__ void Init(bool gathers, int warps = kComputeWarps) const {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(barriers + s * 8, gathers ? 129 : 1);
      BarrierInit(Empty(s), 2 * warps);
    }
  }
  // Of the stage at hand: its boxes of the left operand, of the right one, its barrier.
  __device__ uint32_t Data() const { return stages + stage * kBytes; }
  __device__ uint32_t DataB() const { return Data() + kLeft * kBox; }
  __device__ uint32_t Full() const { return barriers + stage * 8; }
  __device__ uint32_t Empty(int s) const { return barriers + (kStages + s) * 8; }
  // By a warp that is done with stage s.
  __device__ void Release(int s) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane < 2) BarrierArriveAt(Empty(s), lane);
  }
  // By who fills the stage at hand: until both blocks are done with what it held.
  __device__ void WaitEmpty() const { BarrierWait(Empty(stage), phase ^ 1); }
  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  // As so many Advance.
  __device__ void Skip(int steps) {
    const int to = stage + steps;
    stage = to % kStages;
    phase ^= to / kStages & 1;
  }
};

// An operand's boxes, by one thread; box(i): where the ith stands. kShared: both blocks of the pair
// use them, and each brings half of them for both.
template <int kBoxes, bool kShared, class F>
__device__ void BringBoxes(const CUtensorMap* map, uint32_t to, uint32_t full, F&& box) {
  constexpr uint16_t kBoth = 3;
  const auto rank = static_cast<int>(ClusterRank());
#pragma unroll
  for (int i = 0; i < kBoxes; ++i) {
    if constexpr (!kShared) {
      LoadBox(to + i * kBox, map, box(i), full);
    } else if (i % 2 == rank) {
      LoadBoxTo(kBoth, to + i * kBox, map, box(i), full);
    }
  }
}

// Rows of an operand that stand elsewhere: row p is row slots[p] / per_row of the source.
struct GatherSource {
  const __nv_bfloat16* source;
  const int32_t* slots;
  unsigned by_row;  // 2^31 / per_row, rounded up
  int width;        // of the source
};

// `source` of bf16 [rows, width], with the slots of the problem.
inline GatherSource SourceOf(const GroupedProblem& p, const void* source, int64_t width) {
  return {.source = static_cast<const __nv_bfloat16*>(source),
          .slots = p.slots,
          .by_row = static_cast<unsigned>(((int64_t{1} << 31) + p.per_row - 1) / p.per_row),
          .width = static_cast<int>(width)};
}

// Gathers kBoxes boxes line by line, the 128 threads of a warpgroup: thread t takes unit t % 8 of
// lines t / 8 + 16 j. Where lines run along k (kAcross) they are 64 other rows each step; their
// slots are asked for two steps ahead.
template <bool kAcross, int kBoxes>
class Gatherer {
 public:
  static constexpr int kLines = (kAcross ? 64 : 64 * kBoxes) / 16;

  __device__ explicit Gatherer(const GatherSource& from)
      : from_(from),
        unit_(static_cast<int>(threadIdx.x) % 8),
        line_(static_cast<int>(threadIdx.x) / 8),
        to_(line_ * 128 + (unit_ ^ line_ % 8) * 16) {}

  // A tile begins: asks for its first slots. column: of the tile in the source, where lines run
  // along k.
  __device__ void Begin(const Tile& t, int column) {
    column_ = column;
    Ask(t, kAcross ? 0 : t.m, slots_[0]);
    if constexpr (kAcross) Ask(t, kTileK, slots_[1]);
  }

  // Begins the copies of a step, zeros for rows that the group does not have:
  // BarrierArriveAfterCopies tells of their end. `to`: the operand's boxes in a stage. Steps come
  // in order.
  __device__ void Copy(const Tile& t, int step, uint32_t to) {
    if constexpr (!kAcross) {
      Copy(step * kTileK, to, slots_[0]);
    } else if (step % 2 == 0) {
      Copy(column_, to, slots_[0]);
      Ask(t, (step + 2) * kTileK, slots_[0]);
    } else {
      Copy(column_, to, slots_[1]);
      Ask(t, (step + 2) * kTileK, slots_[1]);
    }
  }

 private:
  __device__ void Ask(const Tile& t, int first, int (&slots)[kLines]) const {
#pragma unroll
    for (int j = 0; j < kLines; ++j) {
      const int row = first + line_ + 16 * j;
      slots[j] = row < t.rows ? from_.slots[t.start + row] : -1;
    }
  }

  __device__ void Copy(int first, uint32_t to, const int (&slots)[kLines]) const {
#pragma unroll
    for (int j = 0; j < kLines; ++j) {
      // slots[j] / per_row, exact below 2^26 slots of at most 32 a row.
      const auto row = static_cast<int64_t>(static_cast<uint64_t>(slots[j]) * from_.by_row >> 31);
      const __nv_bfloat16* source = from_.source + row * from_.width + first + 8 * unit_;
#pragma unroll
      for (int i = 0; i < (kAcross ? kBoxes : 1); ++i) {
        const bool there = slots[j] >= 0 && first + 64 * i + 8 * unit_ < from_.width;
        CopyUnit(to + i * kBox + to_ + j * 16 * 128, there ? source + 64 * i : from_.source, there);
      }
    }
  }

  const GatherSource& from_;
  const int unit_, line_, to_;
  int column_ = 0;
  int slots_[kAcross ? 2 : 1][kLines];
};

// d = the products of `steps` slices, by a computing warpgroup. a(): where its box of the left
// operand stands; arrived(step): before the slice is used; queued(step): while products run.
template <bool kAcrossA, bool kAcrossB, class R, class A, class Arrived, class Queued>
__device__ __forceinline__ void Multiply(float (&d)[128], int steps, R& ring, A&& a,
                                         Arrived&& arrived, Queued&& queued) {
  // 16 along k: lines of an operand that runs along k are 16 apart, else 32 bytes of a line.
  constexpr int kStepA = kAcrossA ? 16 * 128 : 32, kStepB = kAcrossB ? 16 * 128 : 32;
  int last = 0;
  for (int step = 0; step < steps; ++step) {
    BarrierWait(ring.Full(), ring.phase);
    arrived(step);
    const uint32_t at_a = a(step), at_b = ring.DataB();
    ProductsBegin();
#pragma unroll
    for (int i = 0; i < kTileK / 16; ++i)
      Product<kAcrossA, kAcrossB>(d, OperandOf(at_a + i * kStepA, kBox, 1024),
                                  OperandOf(at_b + i * kStepB, kBox, 1024), step + i);
    ProductsCommit();
    if (step > 0) {
      ProductsWait<1>();
      ring.Release(last);
    }
    queued(step);
    last = ring.stage;
    ring.Advance();
  }
  ProductsWait<0>();
  ring.Release(last);
}

// The turns of two computing warpgroups at the tensor cores, where each has tiles of its own: the
// slices of a turn follow those of the last in the ring. The second passes once before the first
// turn.
__device__ inline void TakeTurn(int group) { NamedBarrier(3 + group, 256); }
__device__ inline void PassTurn(int group) { NamedBarrierArrive(3 + (group ^ 1), 256); }

// Two numbers as bf16, `low` in the lower half, and back.
__device__ inline uint32_t Pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline float2 Unpack(uint32_t pair) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}
// 32 accumulators in bf16.
__device__ __forceinline__ void Pack(const float* d, uint32_t (&pairs)[16]) {
#pragma unroll
  for (int q = 0; q < 16; ++q) pairs[q] = Pack(d[2 * q], d[2 * q + 1]);
}

// 1 + e^−x, at most 2^60, so that a product of two is finite.
__device__ inline float OnePlusExp(float x) {
  constexpr float kLog2E = 1.44269504f;
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fminf(-x * kLog2E, 60.0f)));
  return 1.0f + y;
}

// The logistic function of two numbers. They share one reciprocal: the special function units are
// what the epilogues wait for.
__device__ inline float2 Sigmoids(float x, float y) {
  const float dx = OnePlusExp(x), dy = OnePlusExp(y);
  const float both = __fdividef(1.0f, dx * dy);
  return {both * dy, both * dx};
}

// SiLU(gate) · up of 32 accumulators each, rounded once, in bf16.
__device__ __forceinline__ void SwiGlu(const float* gate, const float* up, uint32_t (&pairs)[16]) {
#pragma unroll
  for (int q = 0; q < 16; ++q) {
    const int i = 2 * q;
    const float2 s = Sigmoids(gate[i], gate[i + 1]);
    pairs[q] = Pack(gate[i] * up[i] * s.x, gate[i + 1] * up[i + 1] * s.y);
  }
}

}  // namespace mneme::gpu::hopper
