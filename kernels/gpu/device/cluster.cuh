// Clusters of blocks that share out the columns of the streams: mailboxes in one another's shared
// memory, and the launch of as many clusters as the GPU holds. sm_90 only.
#pragma once

#include <algorithm>

#include "kernels/gpu/device/hopper.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/streams.cuh"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

inline constexpr int kMostBlocks = 8;  // of a cluster
inline constexpr int kMostWarps = 10;  // of a block
inline constexpr int kMostThreads = kMostWarps * kWarp;

// Numbers that the blocks of a cluster send one another, step after step, in two buffers by turns:
// a barrier a buffer counts the bytes that have arrived, so that no block waits for the others'
// other work. A block may send step i + 1 once it has had step i from all.
struct Mailbox {
  uint64_t barriers[2];  // of even and of odd steps

  // By all threads of all blocks, before anything is sent. `bytes` a step.
  __device__ __forceinline__ void Open(int bytes) {
    if (threadIdx.x == 0) {
      for (uint64_t& barrier : barriers) {
        hopper::BarrierInit(SharedAddress(&barrier), 1);
        hopper::BarrierExpect(SharedAddress(&barrier), bytes);
      }
      hopper::BarrierInitFence();
    }
    hopper::ClusterSync();
  }
  // *to = v in block `rank`, of step i: `to` is the place in this block's shared memory, and the
  // same place of that block is written. One thread; 4 of the step's bytes there.
  __device__ __forceinline__ void Send(float* to, int rank, int64_t i, float v) {
    asm volatile(
        "{\n .reg .b32 place, barrier;\n"
        "mapa.shared::cluster.u32 place, %0, %2;\n"
        "mapa.shared::cluster.u32 barrier, %1, %2;\n"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [place], %3, [barrier];\n"
        "}" ::"r"(SharedAddress(to)),
        "r"(SharedAddress(&barriers[i % 2])), "r"(rank), "r"(__float_as_uint(v))
        : "memory");
  }
  // Until all of step i is there; thread 0 among those that wait.
  __device__ __forceinline__ void Wait(int64_t i, int bytes) {
    const uint32_t barrier = SharedAddress(&barriers[i % 2]);
    hopper::BarrierWait(barrier, static_cast<uint32_t>(i / 2 % 2));
    if (threadIdx.x == 0) hopper::BarrierExpect(barrier, bytes);
  }
};

// Blocks of a cluster that holds rows of this width, kOwn columns a warp; 0 if none does. Two at
// least: a block alone has no mailbox that compute-sanitizer accepts.
inline int ClusterBlocks(int64_t width) {
  constexpr int kFewestWarps = 3;
  for (int blocks = 2; blocks <= kMostBlocks; blocks *= 2) {
    if (width % (blocks * kOwn) != 0) return 0;
    const int64_t warps = width / (blocks * kOwn);
    if (warps <= kMostWarps) return warps < kFewestWarps ? 0 : blocks;
  }
  return 0;
}

// Runs kernel(args) on clusters of args.blocks blocks, as many as the GPU holds at once and at most
// `most`. Blocks have a warp for each kOwn columns of args.width / args.blocks, and `shared` bytes
// of dynamic shared memory. prepare(clusters, args) may complete the arguments: it knows how many
// clusters there are, and queues before the kernel.
template <class Args, class Prepare>
void LaunchClusters(Stream& stream, void (*kernel)(Args), size_t shared, int64_t most, Args args,
                    Prepare&& prepare) {
  AllowShared(stream, reinterpret_cast<const void*>(kernel));
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(args.blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(args.blocks));
  config.blockDim = dim3(static_cast<unsigned>(args.width / (args.blocks * kOwn) * kWarp));
  config.dynamicSmemBytes = shared;
  config.stream = QueueOf(stream).stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int resident = 0;
  Check(cudaOccupancyMaxActiveClusters(&resident, kernel, &config));
  const int64_t clusters = std::min<int64_t>(std::max(resident, 1), most);
  config.gridDim = dim3(static_cast<unsigned>(clusters * args.blocks));
  prepare(clusters, args);
  Check(cudaLaunchKernelEx(&config, kernel, args));
}

}  // namespace mneme::gpu
