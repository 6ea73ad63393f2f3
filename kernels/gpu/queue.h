// What a Stream's queue is on a GPU: the CUDA stream and the library handles and plans of its ops.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/core/stream.h"

namespace mneme::gpu {

// One a Stream, used by its thread. Plans are kept by the files that make them.
struct Queue {
  int device = 0;
  int multiprocessors = 0;
  int major = 0;  // compute capability
  int minor = 0;
  int shared_bytes = 0;  // most shared memory of a block
  bool chains = false;   // its image of the kernels awaits the one before: device/chain.cuh
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  void* blas_workspace = nullptr;  // device memory
  size_t blas_workspace_bytes = 0;
  std::vector<void*> idle_messages;        // driver.cu
  std::vector<cudaEvent_t> idle_marks;     // driver.cu
  std::unique_lock<std::mutex> recording;  // driver.cu: while it records
  std::shared_ptr<void> matmul_plans;      // blas.cc
  std::shared_ptr<void> attention_plans;   // cudnn.cc

  bool hopper() const { return major == 9 && minor == 0; }
};

inline Queue& QueueOf(Stream& stream) { return *static_cast<Queue*>(stream.queue()); }

}  // namespace mneme::gpu
