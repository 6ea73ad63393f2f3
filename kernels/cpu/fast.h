// The fast versions of CPU ops: each stands in <op>_fast.cc beside the plain one, has its
// signature, and agrees with it to rounding. What it is not written for it hands to the plain one.
#pragma once

#include "kernels/ops/activation.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/conv.h"
#include "kernels/ops/head.h"
#include "kernels/ops/hyper.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/update.h"

namespace mneme::cpu {

// In f32.
RmsNormFn RmsNormFast;
RmsNormGradFn RmsNormGradFast;
// In f32 and f64; memory linear in the length.
AttentionFn AttentionFast;
AttentionGradFn AttentionGradFast;
// In f32.
SwiGluFn SwiGluFast;
SwiGluGradFn SwiGluGradFast;
// In f32, with four taps.
ShortConvFn ShortConvFast;
ShortConvGradFn ShortConvGradFast;
// In f32, with four streams.
HyperEnterFn HyperEnterFast;
HyperLeaveFn HyperLeaveFast;
HyperLeaveEnterFn HyperLeaveEnterFast;
HyperLeaveGradFn HyperLeaveGradFast;
HyperEnterGradFn HyperEnterGradFast;
// In f32 and f64; logits of 256 tokens at a time.
HeadLossFn HeadLossFast;
// In f32.
AdamWFn AdamWFast;
AdamRowsFn AdamRowsFast;
SumSquaresFn SumSquaresFast;

}  // namespace mneme::cpu
