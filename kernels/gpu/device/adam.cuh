// One element of Adam. Device code only.
#pragma once

#include <cfloat>

#include "kernels/ops/update.h"

namespace mneme::gpu {

// What an update reads of the step, once a thread.
struct AdamStep {
  float rate, inverse_bias1, inverse_bias2, clip;
  float beta1, beta2, eps, decay;
  bool apply;  // false: the step is skipped, and Move is not to be called

  __device__ __forceinline__ AdamStep(const AdamOptions& o, const double* step)
      : rate(static_cast<float>(step[kStepRate] * o.rate_mult)),
        inverse_bias1(static_cast<float>(1 / step[kStepBias1])),
        inverse_bias2(static_cast<float>(1 / step[kStepBias2])),
        clip(static_cast<float>(step[kStepClip])),
        beta1(static_cast<float>(o.beta1)),
        beta2(static_cast<float>(o.beta2)),
        eps(static_cast<float>(o.eps)),
        decay(static_cast<float>(o.decay)),
        apply(step[kStepApply] != 0) {}

  // g: the gradient before clipping; m, v, p move. p ← p − rate · (m̂ / (√v̂ + eps) + decay · p).
  // A second moment below the smallest normal number is held at that number inside the root, as on
  // the CPU.
  __device__ __forceinline__ void Move(float g, float& m, float& v, float& p) const {
    const float grad = clip * g;
    m = beta1 * m + (1 - beta1) * grad;
    v = beta2 * v + (1 - beta2) * grad * grad;
    const float root = sqrtf(fmaxf(v, FLT_MIN) * inverse_bias2);
    p -= rate * (m * inverse_bias1 / (root + eps) + decay * p);
  }
};

}  // namespace mneme::gpu
