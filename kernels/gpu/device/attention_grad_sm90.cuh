// What the two kernels of attention's gradient on Hopper share. Device code for sm_90a only.
#pragma once

#include "kernels/gpu/attention.h"
#include "kernels/gpu/device/attention_sm90.cuh"
#include "kernels/gpu/tensor_map.h"

namespace mneme::gpu::hopper {

inline constexpr int kOwnBox = kTile * kLine;

// What both kernels are told beside the maps.
struct GradJob {
  int64_t length;
  int64_t padded;  // length of the notes of a sample and head
  int64_t heads;
  int32_t tiles;  // of kTile
  int32_t pairs;
  int32_t group;
  bool documents;
  float scale;
  const float* lse;      // [pairs, padded], times log2 e
  const float* delta;    // [pairs, padded]
  const int32_t* start;  // [rows, padded]
  int32_t* counter;
  bf16* dq;
  bf16* dkv;
  float* dk_pe_head;
};

struct GradMaps {
  CUtensorMap q, dout, kv, k_pe;
};

template <int kStages>
struct Barriers {
  uint64_t own_full, own_empty;
  uint64_t full[kStages], empty[kStages];
  uint64_t work_full[2], work_empty[2];
};

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

// Hands the next work to the warpgroups that compute. One thread.
template <int kStages>
__device__ void Announce(Barriers<kStages>& bars, Work (&works)[2], Ring<2>& at, const Work& work) {
  Wait(bars.work_empty[at.stage], at.phase ^ 1);
  works[at.stage] = work;
  BarrierArrive(SharedAddress(&bars.work_full[at.stage]));
  at.Next();
}

template <int kStages>
__device__ Work Next(Barriers<kStages>& bars, const Work (&works)[2], Ring<2>& at) {
  Wait(bars.work_full[at.stage], at.phase);
  const Work work = Uniform(works[at.stage]);
  Release(bars.work_empty[at.stage]);
  at.Next();
  return work;
}

// Boxes of a head's rows in q and dout, from token `t` of sample `row`.
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

// Boxes of a head's keys and values: own part, shared part, values.
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

inline GradMaps MapsOf(const AttentionArgs<bf16>& n, uint32_t query_rows, uint32_t key_rows) {
  const auto map = [&](const bf16* base, int64_t width, uint32_t rows) {
    return Bf16Map(base, {width, n.length, n.rows, 1}, {64, rows, 1, 1});
  };
  return {map(n.q, n.heads * n.width(), query_rows), map(n.dout, n.heads * n.value, query_rows),
          map(n.kv, n.heads * (n.nope + n.value), key_rows), map(n.k_pe, n.rope, key_rows)};
}

// dq of all queries; attention_query_grad_sm90.cu.
template <class W>
void QueryGrad(Stream& stream, const AttentionArgs<bf16>& n, const GradJob& job, dim3 grid);

}  // namespace mneme::gpu::hopper
