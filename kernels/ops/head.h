// Output projection and cross-entropy in chunks of tokens, gradient in the same pass: never all
// logits at once.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// logits = x · wᵀ; losses[t] = log Σ exp − logit of targets[t], 0 where the target is −1 (not
// counted). x [T, D]; w [V, D]; targets i32 [T]; losses [T]. Where dx is defined also the gradient
// of scale[0] · Σ losses: dx assigned, dw +=. scale [1], on the device.
using HeadLossFn = void(Stream&, const Tensor& x, const Tensor& w, const Tensor& targets,
                        const Tensor& scale, Tensor& losses, Tensor& dx, Tensor& dw);

namespace cpu {
HeadLossFn HeadLoss;
}  // namespace cpu
namespace gpu {
HeadLossFn HeadLoss;
}  // namespace gpu

}  // namespace mneme
