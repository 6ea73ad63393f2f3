// The plainest use of a GPU's memory, to measure ops against.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mneme::bench {

// REQUIRES of both: `bytes` a multiple of 16, addresses aligned to it.
void CopyAll(cudaStream_t stream, const void* from, int64_t bytes, void* to);
// Reads zeros: afterwards the caches hold nothing of use, and nothing that must be written back.
void ReadAll(cudaStream_t stream, void* zeros, int64_t bytes);

}  // namespace mneme::bench
