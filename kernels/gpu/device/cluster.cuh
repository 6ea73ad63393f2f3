// Clusters of blocks that share out the columns of the streams: a barrier in two halves, stores
// into another block's shared memory, and the launch of as many clusters as the GPU holds. sm_90
// only.
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

__device__ __forceinline__ void ClusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void ClusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// *to = v in block `rank` of the cluster.
__device__ __forceinline__ void StoreRemote(float* to, int rank, float v) {
  asm volatile(
      "{\n .reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.f32 [remote], %2;\n}" ::"r"(SharedAddress(to)),
      "r"(rank), "f"(v)
      : "memory");
}

// Blocks of a cluster that holds rows of this width, kOwn columns a warp; 0 if none does.
inline int ClusterBlocks(int64_t width) {
  constexpr int kFewestWarps = 3;
  for (int blocks = 1; blocks <= kMostBlocks; blocks *= 2) {
    if (width % (blocks * kOwn) != 0) return 0;
    const int64_t warps = width / (blocks * kOwn);
    if (warps <= kMostWarps) return warps < kFewestWarps ? 0 : blocks;
  }
  return 0;
}

// Runs kernel(args) on clusters of args.blocks blocks, as many as the GPU holds at once and at most
// `most`. prepare(clusters, args) may complete the arguments.
template <class Args, class Prepare>
void LaunchClusters(Stream& stream, void (*kernel)(Args), size_t shared, int64_t most, Args args,
                    Prepare&& prepare) {
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)));
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
