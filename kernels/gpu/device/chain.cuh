// Kernels that are started while the one before them in the stream still runs (programmatic
// dependent launch, from Hopper on), so that no time passes between the two. Elsewhere they are
// started when it has ended.
#pragma once

#include <nv/target>

#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

// By every thread of a kernel that LaunchChained started, before it touches memory that anything
// before it in the stream writes or reads: returns when that is done.
__device__ __forceinline__ void AwaitTheOneBefore() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cudaGridDependencySynchronize();))
}

// By a kernel that is short: the one behind it, if LaunchChained starts it, may take its place on
// the multiprocessors from now on, and waits there.
__device__ __forceinline__ void LetTheNextStart() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cudaTriggerProgrammaticLaunchCompletion();))
}

// As Launch, for a kernel that calls AwaitTheOneBefore.
template <class... P, class... A>
void LaunchChained(Stream& stream, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                   A&&... args) {
  if (shared > 48 * 1024) AllowShared(stream, reinterpret_cast<const void*>(kernel));
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = QueueOf(stream).stream;
  config.attrs = &early;
  config.numAttrs = QueueOf(stream).chains ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
}

}  // namespace mneme::gpu
