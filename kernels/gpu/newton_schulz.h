// Newton-Schulz of matrices that fit in shared memory.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor.h"
#include "kernels/ops/update.h"

namespace mneme::gpu {

// x bf16 [B, rows, cols] -> their approximate orthogonal factors, in place: one launch, no scratch.
// REQUIRES: NewtonSchulzIsSmall, and a device that gives a block NewtonSchulzShared bytes.
void NewtonSchulzSmall(Stream& stream, const NewtonSchulzOptions& options, Tensor& x);

}  // namespace mneme::gpu
