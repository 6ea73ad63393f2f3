#include "models/mlp.h"

namespace mneme {

Mlp Mlp::Declare(ParameterStore& store, const std::string& prefix, int64_t width, int64_t hidden,
                 double std) {
  Mlp mlp;
  mlp.gate_up.weight =
      store.Declare(prefix + ".gate_up", {2 * hidden, width}, View::kDense, UpdateKind::kMuon,
                    {MatrixPiece(prefix + ".gate", hidden, width, std),
                     MatrixPiece(prefix + ".up", hidden, width, std)});
  mlp.down = Linear::Declare(store, prefix + ".down", width, hidden, std);
  return mlp;
}

Tensor Mlp::ForwardHidden(Context& c, const Tensor& x, Saved* saved) const {
  const Tensor pre = gate_up.Forward(c, x);
  Tensor h = c.Empty({x.dim(0), pre.dim(1) / 2});
  c.kernels.swiglu(c.stream, pre, h);
  if (saved != nullptr) *saved = {x, pre, h};
  return h;
}

Tensor Mlp::BackwardHidden(Context& c, const Tensor& dy, const Saved& saved) const {
  const Tensor dh = down.Backward(c, dy, saved.h);
  Tensor dpre = c.Empty({dh.dim(0), 2 * dh.dim(1)});
  c.kernels.swiglu_grad(c.stream, dh, saved.gate_up, dpre);
  return dpre;
}

Tensor Mlp::Forward(Context& c, const Pass&, const Tensor& x, const Tensor& skip,
                    Saved* saved) const {
  return down.Forward(c, ForwardHidden(c, x, saved), skip);
}

Tensor Mlp::Backward(Context& c, const Pass&, const Tensor& dy, const Tensor& skip,
                     Saved saved) const {
  const Tensor dpre = BackwardHidden(c, dy, saved);
  saved.h = Tensor();
  return gate_up.Backward(c, dpre, saved.x, skip);
}

}  // namespace mneme
