// SwiGLU feed-forward: down(SiLU(gate x) · up x) (docs/mathematics.md).
#pragma once

#include <string>

#include "models/layer.h"
#include "models/linear.h"

namespace mneme {

struct Mlp {
  static constexpr Part kPart = Part::kFeedForward;
  struct Saved {
    Tensor x;        // [T, D]
    Tensor gate_up;  // [T, 2F]
    Tensor h;        // [T, F]

    template <class F>
    void ForEachTensor(F&& f) const {
      f(x);
      f(gate_up);
      f(h);
    }
  };

  Linear gate_up;  // [2F, D]: gate, then up
  Linear down;     // [D, F]

  // Pieces prefix.gate, prefix.up, prefix.down.
  static Mlp Declare(ParameterStore& store, const std::string& prefix, int64_t width,
                     int64_t hidden, double std);

  Tensor Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                 Saved* saved) const;
  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                  Saved saved) const;

  // In halves, for a caller with work between them: y = down(h), and dx is gate_up's gradient of
  // the second half.
  // h [T, F] of x; saved may be null.
  Tensor ForwardHidden(Context& c, const Tensor& x, Saved* saved) const;
  // Gradient of the pre-activations [T, 2F].
  Tensor BackwardHidden(Context& c, const Tensor& dy, const Saved& saved) const;
};

}  // namespace mneme
