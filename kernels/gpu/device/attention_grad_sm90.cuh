// What the two kernels of attention's gradient on Hopper share. Device code for sm_90a only.
#pragma once

#include "kernels/gpu/attention.h"
#include "kernels/gpu/device/attention_sm90.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu::hopper {

inline constexpr int kOwnBox = kTile * kLine;  // bytes of a box of the rows that a block owns

// What both kernels are told beside the maps.
struct GradJob {
  int64_t length;  // of a sample
  int64_t padded;  // length of the notes of a sample and head
  int64_t heads;
  int32_t tiles;         // of kTile, of a sample
  int32_t pairs;         // samples · heads
  int32_t group;         // pairs that are walked side by side (WorkAt)
  bool documents;        // false: `start` is 0 throughout and not read
  float scale;           // of the scores
  const float* lse;      // [pairs, padded], times log2 e; +∞ beyond the length
  const float* delta;    // [pairs, padded] Σ dout · out; 0 beyond
  const int32_t* start;  // [rows, padded] first key that a query sees; the length beyond
  int32_t* counter;      // works that were taken beside the first of each block; 0 at the start
  bf16* dq;              // these three as in AttentionArgs
  bf16* dkv;
  float* dk_pe_head;
};

// Tensor maps of the inputs, [columns of all heads, length, samples] each, boxes of 64 columns.
struct GradMaps {
  CUtensorMap q, dout, kv, k_pe;
};

// In shared memory. `full`: the bytes have come; `empty`: all warps that compute are done with
// them.
template <int kStages>
struct Barriers {
  uint64_t own_full, own_empty;            // the rows that the block owns
  uint64_t full[kStages], empty[kStages];  // the ring of the other side's
  uint64_t work_full[2], work_empty[2];    // what to do next, told one ahead
};

// One thread; a barrier of the block stands between it and their use.
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

// Hands the next work to the warpgroups that compute. One thread; waits until the work before the
// last was taken.
template <int kStages>
__device__ void Announce(Barriers<kStages>& bars, Work (&works)[2], Ring<2>& at, const Work& work) {
  Wait(bars.work_empty[at.stage], at.phase ^ 1);
  works[at.stage] = work;
  BarrierArrive(SharedAddress(&bars.work_full[at.stage]));
  at.Next();
}

// The other end: every thread that computes gets it, the same in a whole warp.
template <int kStages>
__device__ Work Next(Barriers<kStages>& bars, const Work (&works)[2], Ring<2>& at) {
  Wait(bars.work_full[at.stage], at.phase);
  const Work work = Uniform(works[at.stage]);
  Release(bars.work_empty[at.stage]);
  at.Next();
  return work;
}

// Boxes of a head's rows in q and dout, from token `t` of sample `row`, to places kBoxBytes apart;
// their bytes count at `barrier`. One thread.
template <class W, int kBoxBytes>
__device__ void LoadQueryBoxes(const GradMaps& maps, uint32_t to, int head, int t, int row,
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

// Boxes of a head's keys and values: own part, shared part, values. As above.
template <class W, int kBoxBytes>
__device__ void LoadKeyBoxes(const GradMaps& maps, uint32_t to, int head, int t, int row,
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

// query_rows, key_rows: rows of a box of each side.
inline GradMaps MapsOf(const AttentionArgs<bf16>& n, uint32_t query_rows, uint32_t key_rows) {
  const auto map = [&](const bf16* base, int64_t width, uint32_t rows) {
    return Bf16Map(base, {width, n.length, n.rows, 1}, {64, rows, 1, 1});
  };
  return {map(n.q, n.heads * n.width(), query_rows), map(n.dout, n.heads * n.value, query_rows),
          map(n.kv, n.heads * (n.nope + n.value), key_rows), map(n.k_pe, n.rope, key_rows)};
}

// Queues dq of all queries; attention_query_grad_sm90.cu. REQUIRES: a counter of its own in `job`.
template <class W>
void QueryGrad(Stream& stream, const AttentionArgs<bf16>& n, const GradJob& job, dim3 grid);

}  // namespace mneme::gpu::hopper
