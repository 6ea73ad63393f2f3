// Moments of a CUDA stream.
#include <cuda_runtime_api.h>

#include "kernels/core/check.h"
#include "kernels/core/part_clock.h"
#include "kernels/gpu/queue.h"

namespace mneme {
namespace {

void Check(cudaError_t error, const char* call) {
  if (error != cudaSuccess)
    Fatal(__FILE__, __LINE__, std::string("CUDA: ") + call + ": " + cudaGetErrorString(error));
}

void* Mark(void* queue, void* used) {
  auto* event = static_cast<cudaEvent_t>(used);
  if (event == nullptr) Check(cudaEventCreate(&event), "cudaEventCreate");
  Check(cudaEventRecord(event, static_cast<gpu::Queue*>(queue)->stream), "cudaEventRecord");
  return event;
}

double Seconds(void* from, void* to) {
  float milliseconds = 0.0f;
  Check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from),
                             static_cast<cudaEvent_t>(to)),
        "cudaEventElapsedTime");
  return 1e-3 * static_cast<double>(milliseconds);
}

void Release(void* mark) {
  Check(cudaEventDestroy(static_cast<cudaEvent_t>(mark)), "cudaEventDestroy");
}

}  // namespace

const Marker* GpuMarker() {
  static constexpr Marker kMarker = {Mark, Seconds, Release};
  return &kMarker;
}

}  // namespace mneme
