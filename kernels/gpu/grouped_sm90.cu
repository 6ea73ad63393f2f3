// Grouped matrix products of the routed experts on Hopper: bf16 in, fp32 accumulation. A block
// keeps one 128 x 256 tile of c in the registers of two warpgroups while a third brings 64-wide
// slices of a and b into a ring in shared memory by bulk copies; two blocks (a cluster) are
// neighbours and send each other half of the operand that they share. Blocks stay and walk over all
// tiles of all groups in an order that keeps a group's operands in the L2 cache; where groups begin
// is read from the device, so nothing waits for the host.
//
// One tensor map serves all groups. Rows of a beyond a group's end give rows of c that are not
// stored; in the gradient of weights, where rows are summed over, they are zeroed in shared memory.
// The gradient is added to memory by the copy engine, once an element: same bits each run.
//
// Roofline, T 32,768, K 6, E 72, D 2,560, F 1,536 (196,608 rows): up 3.09e12 FLOP, 1.0 + 1.1 GB in,
// 1.8 GB out; down 1.55e12 FLOP, 0.6 + 0.6 GB in, 1.0 GB out. At 790 TFLOP/s 3.9 and 2.0 ms, memory
// 1.2 and 0.7 ms: bound by arithmetic; the gradient of w_down adds 2.3 GB to memory, 4.5 GB moved:
// 1.96 and 2.1 ms, bound by both. Sweep (E 64, D 512, F 256): up 1.03e11 FLOP, 0.13 ms, and 0.5 GB,
// 0.15 ms: bound by both. Measured on one H100 (copy 2.98 TB/s, matmul 790 TFLOP/s), TFLOP/s: 27B
// up 687-706, with gather and SwiGLU 608-631, down 651-670, dx 680, gradients of weights 616 (down)
// and 631-635 (up); sweep 527, 385, 412, 530, 354 and 444.
#include "kernels/gpu/device/hopper.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/grouped_sm90.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;

constexpr int kTileM = 128, kTileN = 256, kTileK = 64;
static_assert(kTileN == kInnerColumns);
constexpr int kBox = 64 * 128;                               // bytes of a box
constexpr int kBoxesA = kTileM / 64, kBoxesB = kTileN / 64;  // of 64 x 64
constexpr int kStageBytes = (kBoxesA + kBoxesB) * kBox;
constexpr int kComputeWarps = 8;
constexpr int kThreads = 128 + 32 * kComputeWarps;
constexpr int kMaxGroups = kGroupedSm90MaxGroups;

// How a form divides shared memory: stages of the ring, boxes that each warpgroup stores from.
template <GroupedForm kForm>
struct Layout {
  static constexpr bool kDownGrad = kForm == GroupedForm::kDownGrad;
  static constexpr int kStages = kDownGrad ? 3 : 4;
  static constexpr int kBoxes = kDownGrad ? 5 : 2;
  static constexpr int kBarriers = 2 * kStages + (kDownGrad ? 4 : 0);
  static constexpr int kBoxesAt = kStages * kStageBytes;
  static constexpr int kBarriersAt = kBoxesAt + 2 * kBoxes * kBox;
  static constexpr int kOffsetsAt = kBarriersAt + kBarriers * 8;
  static constexpr int kBytes = kOffsetsAt + (kMaxGroups + 1) * 4;
  static_assert(kBytes <= 227 * 1024);
};

constexpr int kBandRows = 4096;  // rows whose tiles are walked before the next rows begin

struct Arguments {
  int groups, m, n, k;
  const int64_t* offsets;
  bf16 *c, *act;
  const bf16* source;    // of the gathered operand
  const int32_t* slots;  // its row p is row slots[p] / per_row of the source
  unsigned by_row;       // 2^31 / per_row, rounded up
  const float* weights;
  float* inner;
  int64_t capacity;
};

struct Tile {
  int group, start, rows;  // rows of the group, from row `start` on
  int m, n;                // first row and column of this block's tile; m counts from `start`
};

// Tiles in order, a pair of blocks each. Both the loading and the computing threads walk.
template <GroupedForm kForm, GroupedPair kPair>
class Walk {
 public:
  __device__ Walk(const Arguments& args, const int32_t* offsets)
      : args_(args), offsets_(offsets), rank_(static_cast<int>(ClusterRank())) {
    constexpr int kWidth = (kForm == GroupedForm::kSwiGlu ? kTileN / 2 : kTileN) * kAlongN;
    columns_ = (args.n + kWidth - 1) / kWidth;
    tile_ = static_cast<int>(blockIdx.x / 2);
  }

  // False when there is none left.
  __device__ bool Next(Tile& t) {
    while (group_ < args_.groups && tile_ - base_ >= Count(group_)) base_ += Count(group_++);
    if (group_ == args_.groups) return false;
    const int height = Height(group_), in_group = tile_ - base_;
    const int band = in_group / (kBand * columns_);
    const int in_band = in_group - band * kBand * columns_;
    const int rows_here = min(kBand, height - band * kBand);
    const int row = band * kBand + in_band % rows_here, column = in_band / rows_here;
    t.group = group_;
    t.start = offsets_[group_];
    t.rows = offsets_[group_ + 1] - t.start;
    t.m = (kAlongM == 2 ? 2 * row + rank_ : row) * kTileM;
    t.n = (kAlongN == 2 ? 2 * column + rank_ : column) *
          (kForm == GroupedForm::kSwiGlu ? kTileN / 2 : kTileN);
    tile_ += static_cast<int>(gridDim.x / 2);
    return true;
  }

 private:
  static constexpr int kAlongM = kPair == GroupedPair::kAlongM ? 2 : 1;
  static constexpr int kAlongN = kPair == GroupedPair::kAlongN ? 2 : 1;
  static constexpr int kHeight = kTileM * kAlongM;
  static constexpr int kBand = kBandRows / kHeight;

  __device__ int Height(int group) const {
    const int rows = offsets_[group + 1] - offsets_[group];
    if (kForm != GroupedForm::kWeightGrad) return (rows + kHeight - 1) / kHeight;
    return rows == 0 ? 0 : (args_.m + kHeight - 1) / kHeight;
  }
  __device__ int Count(int group) const { return Height(group) * columns_; }

  const Arguments& args_;
  const int32_t* offsets_;
  const int rank_;
  int columns_, tile_, group_ = 0, base_ = 0;
};

// The ring: barriers `full` count bytes, barriers `empty` the warps that are done, of both blocks.
template <int kStages>
struct Ring {
  uint32_t stages, barriers;
  int stage = 0;
  uint32_t phase = 0;

  __device__ uint32_t Data() const { return stages + stage * kStageBytes; }
  __device__ uint32_t Full() const { return barriers + stage * 8; }
  __device__ uint32_t Empty(int s) const { return barriers + (kStages + s) * 8; }
  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};
template <GroupedForm kForm>
using RingOf = Ring<Layout<kForm>::kStages>;

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
    case GroupedForm::kDownGrad:
      return {t.n + i * 64, step * kTileK, t.group, 0};
    case GroupedForm::kSwiGlu:
      return {step * kTileK, t.n + i % 2 * 64, i / 2, t.group};
    default:
      return {t.n + i * 64, t.start + step * kTileK, 0, 0};
  }
}

// Bulk copies of what is not gathered. Of the shared operand a block loads its half, for both.
template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__device__ void LoadBoxes(const CUtensorMap* map_a, const CUtensorMap* map_b, const Tile& t,
                          int step, const RingOf<kForm>& ring) {
  const auto rank = static_cast<int>(ClusterRank());
  constexpr uint16_t kBoth = 3;
  const uint32_t a = ring.Data(), b = a + kBoxesA * kBox;
  if constexpr (kGather != GroupedGather::kA) {
#pragma unroll
    for (int i = 0; i < kBoxesA; ++i) {
      if constexpr (kPair == GroupedPair::kAlongM) {
        LoadBox(a + i * kBox, map_a, BoxOfA<kForm>(t, step, i), ring.Full());
      } else if (i % 2 == rank) {
        LoadBoxTo(kBoth, a + i * kBox, map_a, BoxOfA<kForm>(t, step, i), ring.Full());
      }
    }
  }
  if constexpr (kGather != GroupedGather::kB) {
#pragma unroll
    for (int i = 0; i < kBoxesB; ++i) {
      if constexpr (kPair == GroupedPair::kAlongN) {
        LoadBox(b + i * kBox, map_b, BoxOfB<kForm>(t, step, i), ring.Full());
      } else if (i % 2 == rank) {
        LoadBoxTo(kBoth, b + i * kBox, map_b, BoxOfB<kForm>(t, step, i), ring.Full());
      }
    }
  }
}

// Gathers boxes line by line: thread t takes unit t % 8 of lines t / 8 + 16 j. Where lines run
// along k they are 64 other rows each step; their slots are asked for two steps ahead.
template <GroupedForm kForm, GroupedGather kGather>
class Gatherer {
 public:
  static constexpr bool kAcross = kForm == GroupedForm::kWeightGrad;
  static constexpr int kBoxes = kGather == GroupedGather::kB ? kBoxesB : kBoxesA;
  static constexpr int kLines = (kAcross ? 64 : 64 * kBoxes) / 16;

  __device__ explicit Gatherer(const Arguments& args)
      : args_(args),
        unit_(static_cast<int>(threadIdx.x) % 8),
        line_(static_cast<int>(threadIdx.x) / 8),
        to_(line_ * 128 + (unit_ ^ line_ % 8) * 16) {}

  __device__ void Begin(const Tile& t) {
    Ask(t, kAcross ? 0 : t.m, slots_[0]);
    if constexpr (kAcross) Ask(t, kTileK, slots_[1]);
  }

  // `to`: the operand's boxes in a stage. Steps come in order.
  __device__ void Copy(const Tile& t, int step, uint32_t to) {
    if constexpr (!kAcross) {
      Copy(t, step, to, slots_[0]);
    } else if (step % 2 == 0) {
      Copy(t, step, to, slots_[0]);
      Ask(t, (step + 2) * kTileK, slots_[0]);
    } else {
      Copy(t, step, to, slots_[1]);
      Ask(t, (step + 2) * kTileK, slots_[1]);
    }
  }

 private:
  __device__ void Ask(const Tile& t, int first, int (&slots)[kLines]) const {
#pragma unroll
    for (int j = 0; j < kLines; ++j) {
      const int row = first + line_ + 16 * j;
      slots[j] = row < t.rows ? args_.slots[t.start + row] : -1;
    }
  }

  __device__ void Copy(const Tile& t, int step, uint32_t to, const int (&slots)[kLines]) const {
    const int width = !kAcross ? args_.k : kGather == GroupedGather::kA ? args_.m : args_.n;
    const int first = !kAcross ? step * kTileK : kGather == GroupedGather::kA ? t.m : t.n;
#pragma unroll
    for (int j = 0; j < kLines; ++j) {
      // slots[j] / per_row, exact below 2^26 slots of at most 32 a row.
      const auto row = static_cast<int64_t>(static_cast<uint64_t>(slots[j]) * args_.by_row >> 31);
      const bf16* from = args_.source + row * width + first + 8 * unit_;
#pragma unroll
      for (int i = 0; i < (kAcross ? kBoxes : 1); ++i) {
        const bool there = slots[j] >= 0 && first + 64 * i + 8 * unit_ < width;
        CopyUnit(to + i * kBox + to_ + j * 16 * 128, there ? from + 64 * i : args_.source, there);
      }
    }
  }

  const Arguments& args_;
  const int unit_, line_, to_;
  int slots_[kAcross ? 2 : 1][kLines];
};

// Fills the ring: one thread, or a warpgroup where it gathers.
template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__device__ void Bring(const CUtensorMap* map_a, const CUtensorMap* map_b, const Arguments& args,
                      const int32_t* offsets, RingOf<kForm> ring) {
  constexpr bool kGathers = kGather != GroupedGather::kNone;
  constexpr int kGathered = !kGathers ? 0 : kGather == GroupedGather::kA ? kBoxesA : kBoxesB;
  Gatherer<kForm, kGather> gatherer(args);
  Walk<kForm, kPair> walk(args, offsets);
  for (Tile t; walk.Next(t);) {
    const int steps = Steps(kForm == GroupedForm::kWeightGrad, t, args.k);
    if constexpr (kGathers) gatherer.Begin(t);
    for (int step = 0; step < steps; ++step, ring.Advance()) {
      BarrierWait(ring.Empty(ring.stage), ring.phase ^ 1);
      if (threadIdx.x == 0) {
        BarrierExpect(ring.Full(), kStageBytes - kGathered * kBox);
        LoadBoxes<kForm, kPair, kGather>(map_a, map_b, t, step, ring);
      }
      if constexpr (kGathers) {
        gatherer.Copy(t, step, ring.Data() + (kGather == GroupedGather::kA ? 0 : kBoxesA * kBox));
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

__device__ uint32_t Pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// 1 + e^−x, at most 2^60, so that a product of two is finite.
__device__ float OnePlusExp(float x) {
  constexpr float kLog2E = 1.44269504f;
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fminf(-x * kLog2E, 60.0f)));
  return 1.0f + y;
}

// The logistic function of two numbers. They share one reciprocal: the special function units are
// what the epilogues wait for.
__device__ float2 Sigmoids(float x, float y) {
  const float dx = OnePlusExp(x), dy = OnePlusExp(y);
  const float both = __fdividef(1.0f, dx * dy);
  return {both * dy, both * dx};
}

// SiLU(gate) · up of two elements, in bf16.
__device__ uint32_t SwiGlu(float gate0, float up0, float gate1, float up1) {
  const float2 s = Sigmoids(gate0, gate1);
  return Pack(gate0 * up0 * s.x, gate1 * up1 * s.y);
}

__device__ float2 Unpack(uint32_t pair) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

// Stores the share of a tile that one warpgroup has. Boxes are written by all its threads and then
// copied out by one, while the next are written.
struct Store {
  uint32_t boxes;  // in shared memory
  int thread;      // of the warpgroup
  int barrier;     // of the warpgroup
  int next = 0;

  __device__ int lane() const { return thread % 32; }
  __device__ int warp() const { return thread / 32; }
  __device__ bool first() const { return thread == 0; }
  __device__ void Sync() const { NamedBarrier(barrier, 128); }

  // The next of two boxes, when what it held has been copied out.
  __device__ uint32_t Begin() {
    if (first()) StoresRead<1>();
    Sync();
    const uint32_t box = boxes + next * kBox;
    next ^= 1;
    return box;
  }
  // All threads have written; copies may begin.
  __device__ void End() const {
    FenceAsync();
    Sync();
  }
  // Where this lane's line and 16-byte unit (8 columns) of the matrices at columns 8 j stand.
  __device__ uint32_t At(int j) const {
    const int line = warp() * 16 + lane() % 16;
    return line * 128 + ((j + lane() / 16) ^ line % 8) * 16;
  }
};

// Where 64 rows x 64 columns go: in a tensor map, and in memory for the rows of the last, short
// part of a group.
struct Target {
  const CUtensorMap* map;
  Box box;
  bf16* memory;
  int64_t pitch;
  int rows, columns;  // that exist

  __device__ bool whole() const { return rows >= 64; }
};

// The rows of a box that exist, by all threads.
__device__ void CopyPart(const Store& s, const Target& to, uint32_t box) {
  for (int i = s.thread; i < 64 * 8; i += 128) {
    const int line = i / 8, unit = i % 8;
    if (line >= to.rows || unit * 8 >= to.columns) continue;
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(box + line * 128 + (unit ^ line % 8) * 16)
                 : "memory");
    *reinterpret_cast<uint4*>(to.memory + line * to.pitch + unit * 8) = value;
  }
}

// After End: copies a box out. The caller commits.
__device__ void CopyOut(const Store& s, const Target& to, uint32_t box) {
  if (!to.whole()) {
    CopyPart(s, to, box);
  } else if (s.first()) {
    StoreBox(to.map, to.box, box);
  }
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

// Of a [R, 2n] tensor of gates (half 0) and ups (half 1), and of a [R, n] tensor.
__device__ Target HalfTarget(const CUtensorMap* map, bf16* c, const Arguments& args, int row,
                             int half, int column, int rows) {
  const int64_t pitch = 2 * int64_t{args.n};
  return {map,  {column, half, row, 0}, c + row * pitch + half * args.n + column, pitch,
          rows, args.n - column};
}
__device__ Target WholeTarget(const CUtensorMap* map, bf16* c, const Arguments& args, int row,
                              int column, int rows) {
  return {map,  {column, row, 0, 0}, c + int64_t{row} * args.n + column, int64_t{args.n},
          rows, args.n - column};
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
#pragma unroll
    for (int q = 0; q < 16; ++q) pairs[q] = Pack(d[32 * i + 2 * q], d[32 * i + 2 * q + 1]);
    StoreBf16(s,
              kSwiGlu ? HalfTarget(map_c, args.c, args, row, i / 2, t.n + i % 2 * 64, valid)
                      : WholeTarget(map_c, args.c, args, row, t.n + i * 64, valid),
              pairs);
  }
  if constexpr (kSwiGlu) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int q = 0; q < 16; ++q) {
        const int at = 32 * i + 2 * q;
        pairs[q] = SwiGlu(d[at], d[64 + at], d[at + 1], d[64 + at + 1]);
      }
      StoreBf16(s, WholeTarget(map_act, args.act, args, row, t.n + i * 64, valid), pairs);
    }
  }
}

// Adds 64 x 256 in fp32 to the group's gradient, 32 columns at a time.
__device__ void AddGradient(Store& s, const CUtensorMap* map, const Tile& t, int first,
                            float (&d)[128]) {
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
      AddBox(map, {t.n + i * 32, first, t.group, 0}, box);
      StoresCommit();
    }
  }
}

// The epilogue of kDownGrad, 64 columns at a time: gates and ups come into one of two slots of two
// boxes while the products run, their gradients replace them there and are copied out; a fifth box
// takes act.
class DownGrad {
 public:
  __device__ DownGrad(const Store& store, uint32_t barriers, const CUtensorMap* map_gate_up,
                      const Arguments& args)
      : s_(store), barriers_(barriers), map_gate_up_(map_gate_up), args_(args) {}

  // Before the products of a tile: the weights of this thread's two rows.
  __device__ void BeginTile(const Tile& t, int first) {
    valid_ = t.rows - first;
    row_ = t.start + first;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int line = Line(h);
      weight_[h] = line < valid_ ? args_.weights[args_.slots[row_ + line]] : 0.0f;
      inner_[h] = 0;
    }
  }

  // While they run: the first two pieces, into boxes that the last tile is done with.
  __device__ void Request(const Tile& t) const {
    if (valid_ <= 0 || !s_.first()) return;
    StoresRead<0>();
    RequestPiece(t, 0);
    RequestPiece(t, 1);
  }

  __device__ void EndTile(const CUtensorMap* map_c, const CUtensorMap* map_act, const Tile& t,
                          float (&z)[128]) {
    if (valid_ <= 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t gates = s_.boxes + i % 2 * 2 * kBox, ups = gates + kBox;
      const uint32_t acts = s_.boxes + 4 * kBox;
      BarrierWait(barriers_ + i % 2 * 8, phases_ >> i % 2 & 1);
      phases_ ^= 1u << i % 2;
      uint32_t act[16];
#pragma unroll
      for (int j = 0; j < 8; j += 2) Piece(j, gates, ups, &z[32 * i + 4 * j], &act[2 * j]);
      if (s_.first()) StoresRead<0>();
      s_.Sync();
      if (i == 1 || i == 2) {
        if (s_.first()) RequestPiece(t, i + 1);
      }
#pragma unroll
      for (int j = 0; j < 8; j += 2)
        StoreMatrices(acts + s_.At(j), act[2 * j], act[2 * j + 1], act[2 * j + 2], act[2 * j + 3]);
      s_.End();
      const int column = t.n + 64 * i;
      CopyOut(s_, HalfTarget(map_c, args_.c, args_, row_, 0, column, valid_), gates);
      CopyOut(s_, HalfTarget(map_c, args_.c, args_, row_, 1, column, valid_), ups);
      CopyOut(s_, WholeTarget(map_act, args_.act, args_, row_, column, valid_), acts);
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
    LoadBox(box, map_gate_up_, {t.n + 64 * i, 0, row_, 0}, barrier);
    LoadBox(box + kBox, map_gate_up_, {t.n + 64 * i, 1, row_, 0}, barrier);
  }

  // Columns [8 j, 8 (j + 2)): z and act are the accumulators' and pairs of these columns.
  __device__ void Piece(int j, uint32_t gates, uint32_t ups, const float* z, uint32_t* act) {
    uint32_t gate[4], up[4];
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
  }

  const Store& s_;
  const uint32_t barriers_;  // of the two slots
  const CUtensorMap* map_gate_up_;
  const Arguments& args_;
  uint32_t phases_ = 0;
  int valid_ = 0, row_ = 0;
  float weight_[2], inner_[2];
};

struct Maps {
  CUtensorMap a, b, c, act, gate_up;
};

// Eight warps: products of the ring's stages into registers, then out.
template <GroupedForm kForm, GroupedPair kPair, bool kGathers>
__device__ void Compute(const Maps& maps, const Arguments& args, const int32_t* offsets,
                        RingOf<kForm> ring, uint32_t boxes, uint32_t more_barriers) {
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  constexpr bool kDownGrad = kForm == GroupedForm::kDownGrad;
  constexpr bool kAcrossA = kWeightGrad;
  constexpr bool kAcrossB = kWeightGrad || kDownGrad || kForm == GroupedForm::kRowsAcross;
  // 16 along k: lines of an operand that runs along k are 16 apart, else 32 bytes of a line.
  constexpr int kStepA = kAcrossA ? 16 * 128 : 32, kStepB = kAcrossB ? 16 * 128 : 32;
  const int thread = static_cast<int>(threadIdx.x) - 128, group = thread / 128;
  Store store{boxes + group * Layout<kForm>::kBoxes * kBox, thread % 128, 1 + group};
  DownGrad down_grad(store, more_barriers + group * 16, &maps.gate_up, args);
  const auto release = [&](int stage) {
    if (store.lane() < 2) BarrierArriveAt(ring.Empty(stage), store.lane());
  };
  float d[128];
  Walk<kForm, kPair> walk(args, offsets);
  for (Tile t; walk.Next(t);) {
    const int steps = Steps(kWeightGrad, t, args.k), first = t.m + group * 64;
    if constexpr (kDownGrad) down_grad.BeginTile(t, first);
    int last = 0;
    for (int step = 0; step < steps; ++step) {
      BarrierWait(ring.Full(), ring.phase);
      if (kGathers) FenceAsync();
      if (kWeightGrad && step == steps - 1 && t.rows % kTileK != 0)
        ZeroTail(ring.Data(), t.rows % kTileK, thread);
      const uint32_t a = ring.Data() + group * kBox, b = ring.Data() + kBoxesA * kBox;
      ProductsBegin();
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i)
        Product<kAcrossA, kAcrossB>(d, OperandOf(a + i * kStepA, kBox, 1024),
                                    OperandOf(b + i * kStepB, kBox, 1024), step + i);
      ProductsCommit();
      if (step > 0) {
        ProductsWait<1>();
        release(last);
      }
      if constexpr (kDownGrad) {
        if (step == min(2, steps - 1)) down_grad.Request(t);
      }
      last = ring.stage;
      ring.Advance();
    }
    ProductsWait<0>();
    release(last);
    if constexpr (kWeightGrad) {
      AddGradient(store, &maps.c, t, first, d);
    } else if constexpr (kDownGrad) {
      down_grad.EndTile(&maps.c, &maps.act, t, d);
    } else {
      StoreRows<kForm>(store, &maps.c, &maps.act, args, t, first, d);
    }
  }
  if (store.first()) StoresDone();
}

template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__global__ __cluster_dims__(2, 1, 1)
    __launch_bounds__(kThreads, 1) void Grouped(const __grid_constant__ Maps maps,
                                                const __grid_constant__ Arguments args) {
  using L = Layout<kForm>;
  constexpr bool kGathers = kGather != GroupedGather::kNone;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = SharedAddress(shared);
  RingOf<kForm> ring{base, base + L::kBarriersAt};
  const uint32_t more_barriers = ring.barriers + 2 * L::kStages * 8;
  auto* offsets = reinterpret_cast<int32_t*>(shared + L::kOffsetsAt);
  for (int e = static_cast<int>(threadIdx.x); e <= args.groups; e += kThreads)
    offsets[e] = static_cast<int32_t>(args.offsets[e]);
  if (threadIdx.x == 0) {
    for (int s = 0; s < L::kStages; ++s) {
      BarrierInit(ring.barriers + s * 8, kGathers ? 129 : 1);
      BarrierInit(ring.Empty(s), 2 * kComputeWarps);
    }
    for (int i = 0; i < L::kBarriers - 2 * L::kStages; ++i) BarrierInit(more_barriers + i * 8, 1);
    BarrierInitFence();
  }
  __syncthreads();
  ClusterSync();
  if (threadIdx.x < 128) {
    RegistersDown<56>();
    if (kGathers || threadIdx.x == 0)
      Bring<kForm, kPair, kGather>(&maps.a, &maps.b, args, offsets, ring);
    __syncwarp();
  } else {
    RegistersUp<224>();
    Compute<kForm, kPair, kGathers>(maps, args, offsets, ring, base + L::kBoxesAt, more_barriers);
  }
  // The other block may still write here and signal here.
  ClusterSync();
}

template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
void QueueOne(Stream& stream, const GroupedProblem& p) {
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  constexpr bool kDownGrad = kForm == GroupedForm::kDownGrad;
  const auto halves = [&](const void* base) {
    return Bf16Map(base, {p.n, 2, p.rows, 1}, {64, 1, 64, 1});
  };
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
    case GroupedForm::kDownGrad:
      maps.b = Bf16Map(p.b, {p.n, p.k, p.groups, 1}, {64, 64, 1, 1});
      break;
    case GroupedForm::kSwiGlu:
      maps.b = Bf16Map(p.b, {p.k, p.n, 2, p.groups}, {64, 64, 1, 1});
      break;
    case GroupedForm::kWeightGrad:
      if (kGather != GroupedGather::kB) maps.b = rows(p.b, p.n);
      break;
  }
  if (kWeightGrad) {
    maps.c = F32Map(p.c, {p.n, p.m, p.groups, 1}, {32, 64, 1, 1});
  } else if (kForm == GroupedForm::kSwiGlu || kDownGrad) {
    maps.c = halves(p.c);
    maps.act = rows(p.act, p.n);
    if (kDownGrad) maps.gate_up = halves(p.gate_up);
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
                       .source = static_cast<const bf16*>(kGather == GroupedGather::kB ? p.b : p.a),
                       .slots = p.slots,
                       .by_row = static_cast<unsigned>(CeilDiv(int64_t{1} << 31, p.per_row)),
                       .weights = p.weights,
                       .inner = p.inner,
                       .capacity = p.rows};
  const int blocks = QueueOf(stream).multiprocessors / 2 * 2;
  Launch(stream, Grouped<kForm, kPair, kGather>, dim3(static_cast<unsigned>(blocks)), kThreads,
         Layout<kForm>::kBytes, maps, args);
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
  if (form == GroupedForm::kSwiGlu && p.gather != GroupedGather::kA) return false;
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
      if (p.gather == kA) return QueueOne<GroupedForm::kRowsAcross, kM, kA>(stream, p);
      return QueuePlain<GroupedForm::kRowsAcross>(stream, pair, p);
    case GroupedForm::kSwiGlu:
      return QueueOne<GroupedForm::kSwiGlu, kM, kA>(stream, p);
    case GroupedForm::kDownGrad:
      if (p.gather == kA) return QueueOne<GroupedForm::kDownGrad, kM, kA>(stream, p);
      return QueuePlain<GroupedForm::kDownGrad>(stream, pair, p);
    case GroupedForm::kWeightGrad:
      if (p.gather == kA) return QueueOne<GroupedForm::kWeightGrad, kM, kA>(stream, p);
      if (p.gather == kB) return QueueOne<GroupedForm::kWeightGrad, kN, kB>(stream, p);
      return QueuePlain<GroupedForm::kWeightGrad>(stream, pair, p);
  }
}

}  // namespace mneme::gpu
