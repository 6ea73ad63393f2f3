// What the attention kernels for Hopper share: widths and boxes, rings of stages, turns at the
// tensor cores, and how results leave registers. Device code for sm_90a only.
#pragma once

#include <cuda_bf16.h>

#include "kernels/gpu/device/hopper_products.cuh"

namespace mneme::gpu::hopper {

inline constexpr int kLine = 128;              // bytes of a line of a box: 64 columns
inline constexpr int kConsumers = 2;           // warpgroups that compute, 64 rows each
inline constexpr int kTile = 64 * kConsumers;  // rows that a block owns
inline constexpr int kThreads = 128 * (1 + kConsumers);
inline constexpr int kReaders = 4 * kConsumers;  // warps that free a stage
inline constexpr float kLog2E = 1.4426950408889634f;

// Widths of the op, in boxes of 64 columns; the rotary part has boxes of its own, so that the last
// box before may end in columns that belong to nothing here: no score is made of them, and sums of
// queries or keys by column leave those out when they are stored.
template <int kNope_, int kRope_, int kValue_>
struct Widths {
  static constexpr int kNope = kNope_;    // of a query or key, without positions
  static constexpr int kRope = kRope_;    // its rotary part
  static constexpr int kValue = kValue_;  // of a value
  static constexpr int kWidth = kNope + kRope;
  static constexpr int kNopeBoxes = (kNope + 63) / 64;
  static constexpr int kKeyBoxes = kNopeBoxes + (kRope + 63) / 64;
  static constexpr int kValueBoxes = kValue / 64;
  static constexpr int kBoxes = kKeyBoxes + kValueBoxes;
  static constexpr int kRopeAt = 64 * kNopeBoxes;   // where the rotary columns begin
  static constexpr int kColumns = kRopeAt + kRope;  // of the boxes of a query or key
  static_assert(kNope % 16 == 0 && kRope % 16 == 0 && kValue % 64 == 0);
  // Products of 16 columns that a box of keys takes part in.
  static constexpr int Steps(int box) {
    const int left = box < kNopeBoxes ? kNope - 64 * box : kRope - 64 * (box - kNopeBoxes);
    return left < 64 ? left / 16 : 4;
  }
};

// A place in a ring of stages and the parity of how often it has been round: who fills a stage
// waits for phase ^ 1 of its `empty`, who reads it for phase of its `full`.
template <int kStages>
struct Ring {
  uint32_t stage = 0;
  uint32_t phase = 0;
  __device__ void Next() {
    if (++stage < kStages) return;
    stage = 0;
    phase ^= 1;
  }
};

// What a block does next.
struct Work {
  int32_t tile;  // −1: nothing more
  int32_t pair;  // sample and head
  int32_t end;   // tile of the other side where it stops
};

// The index-th tile of all: `group` pairs side by side, and of those the tiles in order. REQUIRES:
// index < tiles · pairs.
__device__ inline Work WorkAt(int index, int tiles, int pairs, int group) {
  const int begin = index / (group * tiles) * group;
  const int width = min(group, pairs - begin);
  const int rest = index - begin * tiles;
  return {rest / width, begin + rest % width, 0};
}

// Lane 0's value: what the compiler then knows to be the same in the whole warp.
__device__ inline int Uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
__device__ inline Work Uniform(const Work& work) {
  return {Uniform(work.tile), Uniform(work.pair), Uniform(work.end)};
}

// Whether it holds, and that the compiler knows the answer to be the same in the whole warp, which
// it wants to know of branches around products.
__device__ inline bool Holds(bool condition) { return __all_sync(0xffffffffu, condition); }

// BarrierWait of a barrier in shared memory.
__device__ inline void Wait(uint64_t& barrier, uint32_t phase) {
  BarrierWait(SharedAddress(&barrier), phase);
}

// Of one warp, all of whose lanes are done with the stage.
__device__ inline void Release(uint64_t& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) BarrierArrive(SharedAddress(&barrier));
}

// The turn of a warpgroup at the tensor cores: one's softmax runs under the others' products. The
// last of `groups` passes once before the first turn.
__device__ inline void TakeTurn(int group) { NamedBarrier(1 + group, 256); }
__device__ inline void PassTurn(int group, int groups) {
  NamedBarrierArrive(1 + (group + 1) % groups, 256);
}

// 2^x; 0 where that is below the smallest normal number. The library's exp2f takes three more
// instructions for those.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// s = x · yᵀ over the width of keys: 64 rows of x, boxes kXBox bytes apart; y likewise. x and y are
// operands as OperandOf makes them. Products only begin here, as below.
template <class W, int kXBox, int kYBox, int N>
__device__ __forceinline__ void KeyProducts(float (&s)[N], uint64_t x, uint64_t y) {
#pragma unroll
  for (int b = 0; b < W::kKeyBoxes; ++b) {
#pragma unroll
    for (int i = 0; i < W::Steps(b); ++i) {
      ProductOf(s, x + ((b * kXBox + 32 * i) >> 4), y + ((b * kYBox + 32 * i) >> 4), b + i > 0);
    }
  }
}
// The same over the width of values.
template <class W, int kXBox, int kYBox, int N>
__device__ __forceinline__ void ValueProducts(float (&s)[N], uint64_t x, uint64_t y) {
#pragma unroll
  for (int b = 0; b < W::kValueBoxes; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ProductOf(s, x + ((b * kXBox + 32 * i) >> 4), y + ((b * kYBox + 32 * i) >> 4), b + i > 0);
    }
  }
}
// Where the step-th 16 columns of a row lie, counted in sixteens of its boxes: the first kFirst
// columns have boxes of their own.
template <int kFirst>
__device__ constexpr int PlaceOf(int step) {
  return step < kFirst / 16 ? step : step - kFirst / 16 + (kFirst + 63) / 64 * 4;
}
// A warpgroup's 64 rows of some boxes, as left operands in registers: kSteps pieces of 16 columns.
template <int kBoxBytes, int kFirst, int kSteps>
__device__ __forceinline__ void LoadOperands(uint32_t (&x)[kSteps][4], uint32_t boxes) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int place = PlaceOf<kFirst>(i);
    const int unit = (place % 4 * 2 + lane / 16) ^ (row % 8);
    LoadMatrices(boxes + place / 4 * kBoxBytes + row * kLine + unit * 16, x[i]);
  }
}
// s = x · yᵀ with x in registers.
template <int kYBox, int kFirst, int kSteps, int N>
__device__ __forceinline__ void OperandProducts(float (&s)[N], const uint32_t (&x)[kSteps][4],
                                                uint64_t y) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int place = PlaceOf<kFirst>(i);
    ProductOf(s, x[i], y + ((place / 4 * kYBox + 32 * (place % 4)) >> 4), i > 0);
  }
}
// o += p · y over the rows of a tile of y: P registers of p are 8 P / 4 rows.
template <int P, int N>
__device__ __forceinline__ void AddRowProducts(float (&o)[N], const uint32_t (&p)[P], uint64_t y) {
#pragma unroll
  for (int i = 0; i < P / 4; ++i) AddProductOfRows(o, p + 4 * i, y + (16 * kLine * i >> 4));
}

// Two numbers rounded to bf16, `low` in the lower half.
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// Results, rounded to bf16, as the left operand of the next product.
template <int N>
__device__ __forceinline__ void Pack(uint32_t (&p)[N / 2], const float (&s)[N]) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) p[i] = PackPair(s[2 * i], s[2 * i + 1]);
}

// Scores of pairs that are not seen become −∞: keys behind the query, or before `start`, the first
// key that each row sees. A thread's rows are `query` and that + 8; `key` is of its first column.
template <int N>
__device__ __forceinline__ void MaskKeys(float (&s)[N], int query, const int (&start)[2], int key) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const int h = j / 2 % 2;
    const int k = key + j / 4 * 8 + j % 2;
    if (k > query + 8 * h || k < start[h]) s[j] = -INFINITY;
  }
}

// Lane j of a quad gets element j of all four lanes.
__device__ __forceinline__ void TransposeQuad(uint32_t (&x)[4]) {
  const bool odd = threadIdx.x & 1;
  const bool high = threadIdx.x & 2;
  uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? x[0] : x[1], 1);
  uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? x[2] : x[3], 1);
  (odd ? x[0] : x[1]) = a;
  (odd ? x[2] : x[3]) = b;
  a = __shfl_xor_sync(0xffffffffu, high ? x[0] : x[2], 2);
  b = __shfl_xor_sync(0xffffffffu, high ? x[1] : x[3], 2);
  (high ? x[0] : x[2]) = a;
  (high ? x[1] : x[3]) = b;
}

// Columns [kFrom, kTo) of a result's row (`half`: the thread's upper or lower), times `factor`, 16
// bytes a thread, of the last 16 columns beyond a multiple of 32 twice 4; null: nowhere, but all
// lanes of a quad must call.
template <int kFrom, int kTo, int N>
__device__ __forceinline__ void StoreRow(const float (&o)[N], int half, float factor,
                                         __nv_bfloat16* row) {
  static_assert(kFrom % 32 == 0 && kTo % 16 == 0 && kTo <= 2 * N);
#pragma unroll
  for (int g = kFrom / 32; g < kTo / 32; ++g) {
    uint32_t x[4];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int at = 16 * g + 4 * b + 2 * half;
      x[b] = PackPair(o[at] * factor, o[at + 1] * factor);
    }
    TransposeQuad(x);
    if (row != nullptr) {
      *reinterpret_cast<uint4*>(row + 32 * g - kFrom + threadIdx.x % 4 * 8) =
          make_uint4(x[0], x[1], x[2], x[3]);
    }
  }
  if constexpr (kTo % 32 != 0) {
    if (row == nullptr) return;
#pragma unroll
    for (int b = kTo / 8 - 2; b < kTo / 8; ++b) {
      *reinterpret_cast<uint32_t*>(row + 8 * b - kFrom + threadIdx.x % 4 * 2) =
          PackPair(o[4 * b + 2 * half] * factor, o[4 * b + 2 * half + 1] * factor);
    }
  }
}

}  // namespace mneme::gpu::hopper
