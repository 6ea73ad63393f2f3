// Fill, copy, cast, add, scale.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

using FillFn = void(Stream&, double value, Tensor& x);
using CopyFn = void(Stream&, const Tensor& x, Tensor& y);        // same dtype and element count
using CastFn = void(Stream&, const Tensor& x, Tensor& y);        // between real dtypes
using AddFn = void(Stream&, const Tensor& x, Tensor& y);         // y += x
using ScaleFn = void(Stream&, const Tensor& factor, Tensor& x);  // x *= factor[0], same dtype

namespace cpu {
FillFn Fill;
CopyFn Copy;
CastFn Cast;
AddFn Add;
ScaleFn Scale;
}  // namespace cpu
namespace gpu {
FillFn Fill;
CopyFn Copy;
CastFn Cast;
AddFn Add;
ScaleFn Scale;
}  // namespace gpu

}  // namespace mneme
