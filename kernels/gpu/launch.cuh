// Kernel launches and CUDA calls, checked; typed access to tensors from .cu files.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <source_location>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/tensor.h"
#include "kernels/gpu/queue.h"

namespace mneme::gpu {

using bf16 = __nv_bfloat16;

// Ends the run with the call's text where a CUDA call failed.
inline void Check(cudaError_t error, std::source_location at = std::source_location::current()) {
  if (error == cudaSuccess) return;
  Fatal(at.file_name(), static_cast<int>(at.line()),
        std::string("CUDA: ") + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}

// a / b rounded up. REQUIRES: a >= 0, b > 0.
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Lets the kernel take as much dynamic shared memory as the device has beside its static part. That
// limit is one a kernel and process, whoever launches it: asking for what one launch takes would
// lower it under another thread's.
inline void AllowShared(Stream& stream, const void* kernel) {
  cudaFuncAttributes now = {};
  Check(cudaFuncGetAttributes(&now, kernel));
  const int most = QueueOf(stream).shared_bytes - static_cast<int>(now.sharedSizeBytes);
  if (now.maxDynamicSharedSizeBytes >= most) return;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
}

// Queues kernel<<<grid, block, shared>>>(args…) on the stream. An empty grid queues nothing. Shared
// memory above 48 KiB is asked for.
template <class... P, class... A>
void Launch(Stream& stream, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            A&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 * 1024) AllowShared(stream, reinterpret_cast<const void*>(kernel));
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = QueueOf(stream).stream;
  Check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
}

// DTypeOf for what .cu files compute with: bf16 is the device's own type there.
template <class T>
inline constexpr DType kDTypeOf = DTypeOf<T>;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::kBf16;

// The tensor's memory as T. REQUIRES: T is its dtype. nullptr for an undefined tensor.
template <class T>
T* Data(Tensor& t) {
  if (!t.defined()) return nullptr;
  CHECK_EQ(Name(t.dtype()), Name(kDTypeOf<T>));
  return static_cast<T*>(t.raw());
}
template <class T>
const T* Data(const Tensor& t) {
  if (!t.defined()) return nullptr;
  CHECK_EQ(Name(t.dtype()), Name(kDTypeOf<T>));
  return static_cast<const T*>(t.raw());
}

// Calls f(float{}) or f(bf16{}), as the activations' dtype says. REQUIRES: kF32 or kBf16; kF64 is
// of CPUs alone.
template <class F>
decltype(auto) DispatchActivation(DType dtype, F&& f) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBf16);
  if (dtype == DType::kBf16) return f(bf16{});
  return f(float{});
}

}  // namespace mneme::gpu
