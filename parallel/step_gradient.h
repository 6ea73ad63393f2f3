// Gradients of the rows of one step, summed as they arrive.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"
#include "parallel/growing_array.h"
#include "parallel/row_index.h"

namespace mneme {

// Used by one thread. Keeps its room from step to step.
class StepGradient {
 public:
  // dtype: f32 or f64, of the rows; width: W. What it holds stands in the allocator's report as
  // gradients; the memory is its own.
  StepGradient(Allocator& allocator, DType dtype, int64_t width);
  ~StepGradient();

  // Adds grads [n, W] (n rows of the store's dtype) to the rows `ids`, distinct. Sums are made in
  // order of the calls.
  void Add(absl::Span<const int64_t> ids, const void* grads);
  // All rows added since Clear: ids i64 [m] rising, grads [m, W].
  void Sorted(Stream& stream, Tensor& ids, Tensor& grads);
  // A new step begins.
  void Clear() { index_.Clear(); }

 private:
  void Account();

  Allocator& allocator_;
  const DType dtype_;
  const int64_t width_;
  RowIndex index_;
  GrowingArray sums_;  // by slot of index_
  int64_t accounted_ = 0;
};

}  // namespace mneme
