// Tensor maps: how Hopper's bulk copies find boxes of a dense tensor.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

namespace mneme::gpu {

// Of a dense, row-major tensor; dims and box innermost first, absent dims 1. Boxes are kept in
// shared memory with the 128-byte swizzle (device/hopper.cuh); what lies outside reads as zero and
// is not written. REQUIRES: `base` on 16 bytes, rows of a multiple of 16 bytes, box lines of at
// most 128 bytes.
CUtensorMap Bf16Map(const void* base, std::array<int64_t, 4> dims, std::array<uint32_t, 4> box);
CUtensorMap F32Map(const void* base, std::array<int64_t, 4> dims, std::array<uint32_t, 4> box);

}  // namespace mneme::gpu
