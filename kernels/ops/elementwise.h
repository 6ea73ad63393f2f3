// Fill, copy, cast, add, scale.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// x and y have equally many elements, whatever their shapes. Those of add and scale are real and of
// one dtype; fill and copy take any, fill bf16 on GPUs alone.
using FillFn = void(Stream&, double value, Tensor& x);           // converted to x's dtype
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
