// RMSNorm with a trained gain (docs/mathematics.md), and a layer behind its own pre-norm.
#pragma once

#include <string>
#include <utility>

#include "models/layer.h"
#include "parallel/parameter.h"

namespace mneme {

// One gain, or one a branch (row r of the input uses gain r % branches). Its owner keeps the input.
struct Norm {
  struct Saved {
    Tensor rstd;  // [R] accurate: 1 / √(mean(x²) + eps) of each row

    template <class F>
    void ForEachTensor(F&& f) const {
      f(rstd);
    }
  };

  Parameter* gain = nullptr;  // [branches, width], starts at 1
  double eps = 0.0;

  // One piece of that name, AdamW with decay, read accurately.
  static Norm Declare(ParameterStore& store, const std::string& name, int64_t branches,
                      int64_t width, double eps);

  // x [R, width] -> the same shape. saved may be null.
  Tensor Forward(Context& c, const Tensor& x, Saved* saved) const;
  // x is the input of Forward. Returns dx + skip, as a layer does; adds to the gain's gradient.
  Tensor Backward(Context& c, const Tensor& dy, const Tensor& x, const Tensor& skip,
                  const Saved& saved) const;
};

// inner(norm(x)): the F of a residual sub-layer (docs/mathematics.md).
template <Layer Inner>
struct PreNormed {
  struct Saved {
    Tensor x;  // [T, D] before the norm
    Norm::Saved norm;
    typename Inner::Saved inner;

    template <class F>
    void ForEachTensor(F&& f) const {
      f(x);
      norm.ForEachTensor(f);
      inner.ForEachTensor(f);
    }
  };

  Norm norm;
  Inner inner;
  bool recompute_norm = false;  // the inner layer's input is not kept but made again

  // As Layer has them (models/layer.h); the skip goes round both.
  Tensor Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                 Saved* saved) const {
    const InPart part(c.parts, Inner::kPart);
    if (saved == nullptr) return inner.Forward(c, pass, norm.Forward(c, x, nullptr), skip, nullptr);
    saved->x = x;
    Tensor y = inner.Forward(c, pass, norm.Forward(c, x, &saved->norm), skip, &saved->inner);
    if (recompute_norm) saved->inner.x = Tensor();
    return y;
  }

  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                  Saved saved) const {
    const InPart part(c.parts, Inner::kPart);
    if (recompute_norm) saved.inner.x = norm.Forward(c, saved.x, nullptr);
    const Tensor dn = inner.Backward(c, pass, dy, {}, std::move(saved.inner));
    return norm.Backward(c, dn, saved.x, skip, saved.norm);
  }
};

}  // namespace mneme
