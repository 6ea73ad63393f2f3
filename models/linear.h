// A matrix product with a trained matrix, no bias (docs/mathematics.md). Its owner keeps the input.
#pragma once

#include <string>

#include "models/context.h"
#include "parallel/parameter.h"

namespace mneme {

// One logical matrix of a parameter, N(0, std^2) at the start (docs/mathematics.md).
Piece MatrixPiece(std::string name, int64_t rows, int64_t cols, double std);

// y [T, out] = x [T, in] · wᵀ, w [out, in].
Tensor Project(Context& c, const Tensor& x, const Tensor& w);
// The same, y accurate: scores and logits that something is decided on.
Tensor ProjectAccurate(Context& c, const Tensor& x, const Tensor& w);
// Gradient: dw += dyᵀ · x; dx assigned, or += where `accumulate`.
void ProjectGrad(Context& c, const Tensor& dy, const Tensor& x, const Tensor& w, bool accumulate,
                 Tensor& dw, Tensor& dx);

struct Linear {
  Parameter* weight = nullptr;  // [out, in]

  // One piece of the parameter's own name.
  static Linear Declare(ParameterStore& store, const std::string& name, int64_t out, int64_t in,
                        double std, Reading reading = Reading::kRounded);

  Tensor Forward(Context& c, const Tensor& x) const { return Project(c, x, weight->value); }
  // The same, added to y.
  void AddForward(Context& c, const Tensor& x, Tensor& y) const;
  // x is the input of Forward. Returns dx.
  Tensor Backward(Context& c, const Tensor& dy, const Tensor& x) const;
  // The same, added to dx.
  void AddBackward(Context& c, const Tensor& dy, const Tensor& x, Tensor& dx) const;
};

}  // namespace mneme
