// Token ids to vectors.
#pragma once

#include <string>

#include "models/context.h"
#include "parallel/parameter.h"

namespace mneme {

struct Embedding {
  Parameter* table = nullptr;  // [V, D]

  // AdamW with decay (docs/mathematics.md): a vocabulary matrix is no backbone matrix.
  static Embedding Declare(ParameterStore& store, const std::string& name, int64_t vocabulary,
                           int64_t width, double std);

  // tokens i32 [T], each below V -> [T, D] in the run's dtype.
  Tensor Forward(Context& c, const Tensor& tokens) const;
  // Adds dy [T, D] to the gradient of the tokens' rows, in order of the tokens.
  void Backward(Context& c, const Tensor& dy, const Tensor& tokens) const;
};

}  // namespace mneme
