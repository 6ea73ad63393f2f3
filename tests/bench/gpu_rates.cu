// What memory can do: a copy and a read of nothing else, 16 bytes a thread and turn.
#include <cuda_runtime.h>

#include "tests/bench/gpu_rates.h"

namespace mneme::bench {
namespace {

constexpr int kThreads = 512;
constexpr int kTurns = 4;  // loads of a thread that are in flight together

__global__ void CopyKernel(const uint4* from, int64_t n, uint4* to) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kTurns + threadIdx.x;
  uint4 held[kTurns];
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    if (first + i * kThreads < n) held[i] = __ldcs(from + first + i * kThreads);
  }
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    if (first + i * kThreads < n) __stcs(to + first + i * kThreads, held[i]);
  }
}

// `sink` keeps the compiler from leaving the loads out; no sum of zeros is not zero.
__global__ void ReadKernel(const uint4* from, int64_t n, uint4* sink) {
  uint32_t any = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const uint4 v = from[i];
    any |= v.x | v.y | v.z | v.w;
  }
  if (any != 0) *sink = {any, any, any, any};
}

}  // namespace

void CopyAll(cudaStream_t stream, const void* from, int64_t bytes, void* to) {
  const int64_t n = bytes / static_cast<int64_t>(sizeof(uint4));
  const auto blocks = static_cast<unsigned>((n + kThreads * kTurns - 1) / (kThreads * kTurns));
  CopyKernel<<<blocks, kThreads, 0, stream>>>(static_cast<const uint4*>(from), n,
                                              static_cast<uint4*>(to));
}

void ReadAll(cudaStream_t stream, void* from, int64_t bytes) {
  constexpr unsigned kBlocks = 1024;
  ReadKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const uint4*>(from),
                                               bytes / static_cast<int64_t>(sizeof(uint4)),
                                               static_cast<uint4*>(from));
}

}  // namespace mneme::bench
