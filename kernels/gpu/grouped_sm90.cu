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
// 1.2 and 0.7 ms: bound by arithmetic. Sweep (E 64, D 512, F 256): up 1.03e11 FLOP, 0.13 ms, and
// 0.5 GB, 0.15 ms: bound by both.
#include "kernels/gpu/device/hopper.cuh"
#include "kernels/gpu/grouped_sm90.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu {
namespace {

using namespace hopper;  // NOLINT: instructions by their names

constexpr int kTileM = 128, kTileN = 256, kTileK = 64;
constexpr int kStages = 4;
constexpr int kBox = 64 * 128;                               // bytes of a box
constexpr int kBoxesA = kTileM / 64, kBoxesB = kTileN / 64;  // of 64 x 64
constexpr int kStageBytes = (kBoxesA + kBoxesB) * kBox;
constexpr int kOutBoxes = 2;  // a warpgroup, being stored
constexpr int kComputeWarps = 8;
constexpr int kThreads = 128 + 32 * kComputeWarps;
constexpr int kMaxGroups = kGroupedSm90MaxGroups;
constexpr int kBarrierBytes = 2 * kStages * 8;
constexpr int kSharedBytes =
    kStages * kStageBytes + 2 * kOutBoxes * kBox + kBarrierBytes + (kMaxGroups + 1) * 4;
static_assert(kSharedBytes <= 227 * 1024);
constexpr int kBandRows = 4096;  // rows whose tiles are walked before the next rows begin

struct Arguments {
  int groups, m, n, k;
  const int64_t* offsets;
  bf16 *c, *act;
  const bf16* source;    // of the gathered operand
  const int32_t* slots;  // its row p is row slots[p] / per_row of the source
  int per_row;
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

// Bulk copies of what is not gathered. Of the shared operand a block loads its half, for both.
template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__device__ void LoadBoxes(const CUtensorMap* map_a, const CUtensorMap* map_b, const Tile& t,
                          int step, const Ring& ring) {
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

// Gathers boxes line by line: thread t takes unit t % 8 of lines t / 8 + 16 j.
template <GroupedForm kForm, GroupedGather kGather>
class Gatherer {
 public:
  static constexpr bool kAcross = kForm == GroupedForm::kWeightGrad;
  static constexpr int kBoxes = kGather == GroupedGather::kB ? kBoxesB : kBoxesA;
  // Lines that run along k are a tile's rows, and stay; others are 64 rows of each step.
  static constexpr int kLines = (kAcross ? 64 : 64 * kBoxes) / 16;

  __device__ explicit Gatherer(const Arguments& args)
      : args_(args),
        unit_(static_cast<int>(threadIdx.x) % 8),
        line_(static_cast<int>(threadIdx.x) / 8),
        to_(line_ * 128 + (unit_ ^ line_ % 8) * 16) {}

  // Finds the source rows of a tile, or of a step's 64 rows.
  __device__ void Find(const Tile& t, int first) {
#pragma unroll
    for (int j = 0; j < kLines; ++j) {
      const int row = first + line_ + 16 * j;
      rows_[j] = row < t.rows ? args_.slots[t.start + row] / args_.per_row : -1;
    }
  }

  // `to`: the operand's boxes in a stage.
  __device__ void Copy(const Tile& t, int step, uint32_t to) const {
    const int width = !kAcross ? args_.k : kGather == GroupedGather::kA ? args_.m : args_.n;
    const int first = !kAcross ? step * kTileK : kGather == GroupedGather::kA ? t.m : t.n;
#pragma unroll
    for (int i = 0; i < (kAcross ? kBoxes : 1); ++i) {
      const int column = first + 64 * i + 8 * unit_;
#pragma unroll
      for (int j = 0; j < kLines; ++j) {
        const bool there = rows_[j] >= 0 && column < width;
        const int64_t from = there ? int64_t{rows_[j]} * width + column : 0;
        CopyUnit(to + i * kBox + to_ + j * 16 * 128, args_.source + from, there);
      }
    }
  }

 private:
  const Arguments& args_;
  const int unit_, line_, to_;
  int rows_[kLines];
};

// Fills the ring: one thread, or a warpgroup where it gathers.
template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__device__ void Bring(const CUtensorMap* map_a, const CUtensorMap* map_b, const Arguments& args,
                      const int32_t* offsets, Ring ring) {
  constexpr bool kGathers = kGather != GroupedGather::kNone;
  constexpr int kGathered = !kGathers ? 0 : kGather == GroupedGather::kA ? kBoxesA : kBoxesB;
  Gatherer<kForm, kGather> gatherer(args);
  Walk<kForm, kPair> walk(args, offsets);
  for (Tile t; walk.Next(t);) {
    const int steps = Steps(kForm == GroupedForm::kWeightGrad, t, args.k);
    if constexpr (kGathers) gatherer.Find(t, gatherer.kAcross ? 0 : t.m);
    for (int step = 0; step < steps; ++step, ring.Advance()) {
      BarrierWait(ring.Empty(ring.stage), ring.phase ^ 1);
      if (threadIdx.x == 0) {
        BarrierExpect(ring.Full(), kStageBytes - kGathered * kBox);
        LoadBoxes<kForm, kPair, kGather>(map_a, map_b, t, step, ring);
      }
      if constexpr (kGathers) {
        gatherer.Copy(t, step, ring.Data() + (kGather == GroupedGather::kA ? 0 : kBoxesA * kBox));
        BarrierArriveAfterCopies(ring.Full());
        if (gatherer.kAcross && step + 1 < steps) gatherer.Find(t, (step + 1) * kTileK);
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

// SiLU(gate) · up of two elements, in bf16. They share one reciprocal: the special function units
// are what the epilogue waits for.
__device__ uint32_t SwiGlu(float gate0, float up0, float gate1, float up1) {
  const float d0 = OnePlusExp(gate0), d1 = OnePlusExp(gate1);
  const float both = __fdividef(1.0f, d0 * d1);
  return Pack(gate0 * up0 * (both * d1), gate1 * up1 * (both * d0));
}

// What one warpgroup's thread needs to store its share of a tile.
struct Store {
  uint32_t boxes;  // kOutBoxes boxes in shared memory
  int thread;      // of the warpgroup
  int barrier;
  int next = 0;

  __device__ int lane() const { return thread % 32; }
  __device__ int warp() const { return thread / 32; }
  __device__ uint32_t Begin() {
    if (thread == 0) StoresRead<kOutBoxes - 1>();
    NamedBarrier(barrier, 128);
    const uint32_t box = boxes + next * kBox;
    next = (next + 1) % kOutBoxes;
    return box;
  }
  __device__ void End() {
    FenceAsync();
    NamedBarrier(barrier, 128);
  }
};

// 64 rows x 64 columns of bf16: the pairs of 32 consecutive accumulators.
__device__ void StoreBf16(Store& s, const CUtensorMap* map, Box to, const uint32_t (&pairs)[16]) {
  const uint32_t box = s.Begin();
  const int line = s.warp() * 16 + s.lane() % 16;
  const uint32_t at = box + line * 128;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const int unit = j + s.lane() / 16;
    StoreMatrices(at + ((unit ^ line % 8) * 16), pairs[2 * j], pairs[2 * j + 1], pairs[2 * j + 2],
                  pairs[2 * j + 3]);
  }
  s.End();
  if (s.thread == 0) {
    StoreBox(map, to, box);
    StoresCommit();
  }
}

// The same without a box, for the first `rows` of 64 rows only.
__device__ void StorePart(const Store& s, bf16* to, int64_t pitch, int rows, int columns,
                          const uint32_t (&pairs)[16]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int column = 8 * j + s.lane() % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = s.warp() * 16 + s.lane() / 4 + 8 * h;
      if (row < rows && column < columns)
        *reinterpret_cast<uint32_t*>(to + row * pitch + column) = pairs[2 * j + h];
    }
  }
}

// Stores 64 columns of the warpgroup's rows; `to` in the map and `c` in memory say where.
__device__ void StoreColumns(Store& s, const CUtensorMap* map, Box to, bf16* c, int64_t pitch,
                             int valid, int columns, const uint32_t (&pairs)[16]) {
  if (valid >= 64) {
    StoreBf16(s, map, to, pairs);
  } else {
    StorePart(s, c, pitch, valid, columns, pairs);
  }
}

template <GroupedForm kForm>
__device__ void StoreRows(Store& s, const CUtensorMap* map_c, const CUtensorMap* map_act,
                          const Arguments& args, const Tile& t, int first, float (&d)[128]) {
  const int valid = t.rows - first;
  if (valid <= 0) return;
  const int row = t.start + first;
  constexpr bool kSwiGlu = kForm == GroupedForm::kSwiGlu;
  uint32_t pairs[16];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int half = kSwiGlu ? i / 2 : 0, column = t.n + (kSwiGlu ? i % 2 : i) * 64;
    const int64_t pitch = kSwiGlu ? 2 * int64_t{args.n} : int64_t{args.n};
#pragma unroll
    for (int q = 0; q < 16; ++q) pairs[q] = Pack(d[32 * i + 2 * q], d[32 * i + 2 * q + 1]);
    StoreColumns(s, map_c, kSwiGlu ? Box{column, half, row, 0} : Box{column, row, 0, 0},
                 args.c + row * pitch + half * args.n + column, pitch, valid, args.n - column,
                 pairs);
  }
  if constexpr (kSwiGlu) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = t.n + i * 64;
#pragma unroll
      for (int q = 0; q < 16; ++q) {
        const int at = 32 * i + 2 * q;
        pairs[q] = SwiGlu(d[at], d[64 + at], d[at + 1], d[64 + at + 1]);
      }
      StoreColumns(s, map_act, {column, row, 0, 0}, args.act + int64_t{row} * args.n + column,
                   args.n, valid, args.n - column, pairs);
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
    if (s.thread == 0) {
      AddBox(map, {t.n + i * 32, first, t.group, 0}, box);
      StoresCommit();
    }
  }
}

// Eight warps: products of the ring's stages into registers, then out.
template <GroupedForm kForm, GroupedPair kPair, bool kGathers>
__device__ void Compute(const CUtensorMap* map_c, const CUtensorMap* map_act, const Arguments& args,
                        const int32_t* offsets, Ring ring, uint32_t boxes) {
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  constexpr bool kAcrossA = kWeightGrad;
  constexpr bool kAcrossB = kWeightGrad || kForm == GroupedForm::kRowsAcross;
  // 16 along k: lines of an operand that runs along k are 16 apart, else 32 bytes of a line.
  constexpr int kStepA = kAcrossA ? 16 * 128 : 32, kStepB = kAcrossB ? 16 * 128 : 32;
  const int thread = static_cast<int>(threadIdx.x) - 128, group = thread / 128;
  Store store{boxes + group * kOutBoxes * kBox, thread % 128, 1 + group};
  const auto release = [&](int stage) {
    if (store.lane() < 2) BarrierArriveAt(ring.Empty(stage), store.lane());
  };
  float d[128];
  Walk<kForm, kPair> walk(args, offsets);
  for (Tile t; walk.Next(t);) {
    const int steps = Steps(kWeightGrad, t, args.k);
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
      last = ring.stage;
      ring.Advance();
    }
    ProductsWait<0>();
    release(last);
    const int first = t.m + group * 64;
    if constexpr (kWeightGrad) {
      AddGradient(store, map_c, t, first, d);
    } else {
      StoreRows<kForm>(store, map_c, map_act, args, t, first, d);
    }
  }
  if (store.thread == 0) StoresDone();
}

template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
__global__ __cluster_dims__(2, 1, 1)
    __launch_bounds__(kThreads, 1) void Grouped(const __grid_constant__ CUtensorMap map_a,
                                                const __grid_constant__ CUtensorMap map_b,
                                                const __grid_constant__ CUtensorMap map_c,
                                                const __grid_constant__ CUtensorMap map_act,
                                                const __grid_constant__ Arguments args) {
  constexpr bool kGathers = kGather != GroupedGather::kNone;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = SharedAddress(shared);
  const uint32_t boxes = base + kStages * kStageBytes;
  Ring ring{base, boxes + 2 * kOutBoxes * kBox};
  auto* offsets = reinterpret_cast<int32_t*>(shared + (ring.barriers + kBarrierBytes - base));
  for (int e = static_cast<int>(threadIdx.x); e <= args.groups; e += kThreads)
    offsets[e] = static_cast<int32_t>(args.offsets[e]);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(ring.barriers + s * 8, kGathers ? 129 : 1);
      BarrierInit(ring.Empty(s), 2 * kComputeWarps);
    }
    BarrierInitFence();
  }
  __syncthreads();
  ClusterSync();
  if (threadIdx.x < 128) {
    RegistersDown<56>();
    if (kGathers || threadIdx.x == 0)
      Bring<kForm, kPair, kGather>(&map_a, &map_b, args, offsets, ring);
    __syncwarp();
  } else {
    RegistersUp<224>();
    Compute<kForm, kPair, kGathers>(&map_c, &map_act, args, offsets, ring, boxes);
  }
  // The other block may still write here and signal here.
  ClusterSync();
}

template <GroupedForm kForm, GroupedPair kPair, GroupedGather kGather>
void QueueOne(Stream& stream, const GroupedProblem& p) {
  constexpr bool kWeightGrad = kForm == GroupedForm::kWeightGrad;
  CUtensorMap a{}, b{}, c{}, act{};
  if (kGather != GroupedGather::kA)
    a = Bf16Map(p.a, {kWeightGrad ? p.m : p.k, p.rows, 1, 1}, {64, 64, 1, 1});
  switch (kForm) {
    case GroupedForm::kRows:
      b = Bf16Map(p.b, {p.k, p.n, p.groups, 1}, {64, 64, 1, 1});
      break;
    case GroupedForm::kRowsAcross:
      b = Bf16Map(p.b, {p.n, p.k, p.groups, 1}, {64, 64, 1, 1});
      break;
    case GroupedForm::kSwiGlu:
      b = Bf16Map(p.b, {p.k, p.n, 2, p.groups}, {64, 64, 1, 1});
      break;
    case GroupedForm::kWeightGrad:
      if (kGather != GroupedGather::kB) b = Bf16Map(p.b, {p.n, p.rows, 1, 1}, {64, 64, 1, 1});
      break;
  }
  if (kWeightGrad) {
    c = F32Map(p.c, {p.n, p.m, p.groups, 1}, {32, 64, 1, 1});
  } else if (kForm == GroupedForm::kSwiGlu) {
    c = Bf16Map(p.c, {p.n, 2, p.rows, 1}, {64, 1, 64, 1});
    act = Bf16Map(p.act, {p.n, p.rows, 1, 1}, {64, 64, 1, 1});
  } else {
    c = Bf16Map(p.c, {p.n, p.rows, 1, 1}, {64, 64, 1, 1});
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
                       .per_row = static_cast<int>(p.per_row)};
  const int blocks = QueueOf(stream).multiprocessors / 2 * 2;
  Launch(stream, Grouped<kForm, kPair, kGather>, dim3(static_cast<unsigned>(blocks)), kThreads,
         kSharedBytes, a, b, c, act, args);
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
    case GroupedForm::kWeightGrad:
      if (p.gather == kA) return QueueOne<GroupedForm::kWeightGrad, kM, kA>(stream, p);
      if (p.gather == kB) return QueueOne<GroupedForm::kWeightGrad, kN, kB>(stream, p);
      return QueuePlain<GroupedForm::kWeightGrad>(stream, pair, p);
  }
}

}  // namespace mneme::gpu
