// The fast versions of CPU ops: each stands in <op>_fast.cc beside the plain one, has its
// signature, and agrees with it to rounding.
#pragma once

#include "kernels/ops/activation.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/conv.h"
#include "kernels/ops/head.h"
#include "kernels/ops/hyper.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/update.h"

namespace mneme::cpu {

RmsNormFn RmsNormFast;
RmsNormGradFn RmsNormGradFast;
AttentionFn AttentionFast;
AttentionGradFn AttentionGradFast;
SwiGluFn SwiGluFast;
SwiGluGradFn SwiGluGradFast;
ShortConvFn ShortConvFast;
ShortConvGradFn ShortConvGradFast;
HyperEnterFn HyperEnterFast;
HyperLeaveFn HyperLeaveFast;
HyperLeaveEnterFn HyperLeaveEnterFast;
HyperLeaveGradFn HyperLeaveGradFast;
HyperEnterGradFn HyperEnterGradFast;
HeadLossFn HeadLossFast;
AdamWFn AdamWFast;
AdamRowsFn AdamRowsFast;
SumSquaresFn SumSquaresFast;

}  // namespace mneme::cpu
