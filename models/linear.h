// A matrix product with a trained matrix, no bias (docs/mathematics.md). Its owner keeps the input.
#pragma once

#include <string>

#include "models/context.h"
#include "parallel/parameter.h"

namespace mneme {

// One logical matrix of a parameter, N(0, std^2) at the start (docs/mathematics.md).
Piece MatrixPiece(std::string name, int64_t rows, int64_t cols, double std);

// y [T, out] = x [T, in] · wᵀ, w [out, in], y accurate: logits that something is decided on.
Tensor ProjectAccurate(Context& c, const Tensor& x, const Tensor& w);

struct Linear {
  Parameter* weight = nullptr;  // [out, in]

  // One piece of the parameter's own name.
  static Linear Declare(ParameterStore& store, const std::string& name, int64_t out, int64_t in,
                        double std, Reading reading = Reading::kRounded);

  // y [T, out] = x [T, in] · wᵀ + addend. An undefined addend adds nothing, here and below.
  Tensor Forward(Context& c, const Tensor& x, const Tensor& addend = {}) const;
  // x is the input of Forward. Returns dx + addend.
  Tensor Backward(Context& c, const Tensor& dy, const Tensor& x, const Tensor& addend = {}) const;
  // The same, added to dx in place.
  void AddBackward(Context& c, const Tensor& dy, const Tensor& x, Tensor& dx) const;
  // Its two halves: dx += dy · w; dw += dyᵀ · x.
  void AddInputGradient(Context& c, const Tensor& dy, Tensor& dx) const;
  void AddWeightGradient(Context& c, const Tensor& dy, const Tensor& x) const;
};

}  // namespace mneme
