#include "kernels/gpu/tensor_map.h"

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/core/check.h"

namespace mneme::gpu {
namespace {

using EncodeFn = decltype(cuTensorMapEncodeTiled);

// The driver's function, found through the runtime: nothing links to the driver.
EncodeFn* Encode() {
  static EncodeFn* const kFunction = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || function == nullptr)
      Fatal(__FILE__, __LINE__, "the CUDA driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<EncodeFn*>(function);
  }();
  return kFunction;
}

CUtensorMap Map(CUtensorMapDataType type, int64_t element, const void* base,
                const std::array<int64_t, 4>& dims, const std::array<uint32_t, 4>& box) {
  std::array<cuuint64_t, 4> sizes{};
  std::array<cuuint64_t, 3> strides{};  // bytes, from the second dim on
  cuuint64_t bytes = static_cast<cuuint64_t>(element);
  for (size_t i = 0; i < 4; ++i) {
    sizes[i] = static_cast<cuuint64_t>(dims[i]);
    bytes *= sizes[i];
    if (i < 3) strides[i] = bytes;
  }
  const std::array<cuuint32_t, 4> steps{1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      Encode()(&map, type, 4, const_cast<void*>(base), sizes.data(), strides.data(), box.data(),
               steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    Fatal(__FILE__, __LINE__,
          "cuTensorMapEncodeTiled failed: " + std::to_string(static_cast<int>(result)));
  return map;
}

}  // namespace

CUtensorMap Bf16Map(const void* base, std::array<int64_t, 4> dims, std::array<uint32_t, 4> box) {
  return Map(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, base, dims, box);
}

CUtensorMap F32Map(const void* base, std::array<int64_t, 4> dims, std::array<uint32_t, 4> box) {
  return Map(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, base, dims, box);
}

}  // namespace mneme::gpu
