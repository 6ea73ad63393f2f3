// The device's own handle of a stream, for a library outside of kernels that queues on it.
#pragma once

#include "kernels/core/stream.h"

namespace mneme {

// The cudaStream_t of a GPU's stream. In a build with CUDA only.
void* NativeQueue(const Stream& stream);

}  // namespace mneme
