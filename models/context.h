// All that a layer may touch.
#pragma once

#include "kernels/kernels.h"
#include "parallel/mesh.h"

namespace mneme {

struct Context {
  const Kernels& kernels;
  Stream& stream;
  Mesh& mesh;
  DType dtype = DType::kF32;

  // Activations in the run's dtype.
  Tensor Empty(Shape shape) { return Tensor::Empty(stream, dtype, shape); }
};

// Some sequences of one step, on the device. T = rows · length tokens.
struct MicroBatch {
  int64_t rows = 0;
  int64_t length = 0;
  Tensor tokens;     // i32 [T] inputs
  Tensor targets;    // i32 [T] next ids; −1 is not counted
  Tensor positions;  // i32 [T] position inside the row: 0 .. length − 1
  Tensor doc_start;  // i32 [T] position inside the row of the first token of this token's document; 0 under `ignore`

  int64_t tokens_count() const { return rows * length; }
};

}  // namespace mneme
