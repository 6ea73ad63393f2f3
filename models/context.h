// All that a layer may touch.
#pragma once

#include "kernels/core/part_clock.h"
#include "kernels/kernels.h"
#include "parallel/mesh.h"

namespace mneme {

struct Context {
  const Kernels& kernels;
  Stream& stream;
  Mesh& mesh;
  DType dtype = DType::kF32;
  PartClock* parts = nullptr;  // where the time goes, if someone asks

  // What `work` queues belongs to `part`.
  template <class F>
  auto In(Part part, F&& work) {
    const InPart in(parts, part);
    return work();
  }
  // Activations in the run's dtype.
  Tensor Empty(Shape shape) { return Tensor::Empty(stream, dtype, shape); }
  // Statistics, scores and mixes, which stay accurate (docs/numerics.md).
  Tensor EmptyAccurate(Shape shape) { return Tensor::Empty(stream, Accurate(dtype), shape); }
};

// Some sequences of one step, on the device. T = rows · length tokens.
struct MicroBatch {
  int64_t rows = 0;
  int64_t length = 0;
  Tensor tokens;     // i32 [T] inputs
  Tensor targets;    // i32 [T] next ids; −1 is not counted
  Tensor positions;  // i32 [T] position inside the row: 0 .. length − 1
  Tensor doc_start;  // i32 [T] position inside the row of the first token of this token's document;
                     // 0 under `ignore`
  bool documents = true;  // false: doc_start is 0 throughout

  int64_t tokens_count() const { return rows * length; }
};

// Rotary positions of one stage (models/rotary.h).
struct Rotary {
  Tensor table;              // accurate [P, R/2, 2]: cos and sin of position p and pair i
  double score_scale = 1.0;  // YaRN's mscale^2: multiplies every attention score
};

// What one call of the stack hands to every layer beside activations. Lives as long as the call.
struct Pass {
  const MicroBatch& batch;
  const Rotary& rotary;
  // Sequence balance loss: weight / sequences of the global batch, and where its scaled sum is
  // added. Both [1], accurate; undefined without gradient.
  Tensor balance_scale;
  Tensor balance_sum;
};

}  // namespace mneme
