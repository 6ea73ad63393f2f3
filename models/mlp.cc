#include "models/mlp.h"

#include <utility>

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

Tensor Mlp::Forward(Context& c, const Pass&, const Tensor& x, Saved* saved) const {
  const Tensor pre = gate_up.Forward(c, x);
  Tensor h = c.Empty({x.dim(0), pre.dim(1) / 2});
  c.kernels.swiglu(c.stream, pre, h);
  if (saved != nullptr) *saved = {x, pre, h};
  return down.Forward(c, h);
}

Tensor Mlp::Backward(Context& c, const Pass&, const Tensor& dy, Saved saved) const {
  const Tensor dh = down.Backward(c, dy, saved.h);
  saved.h = Tensor();
  Tensor dpre = c.Empty({dh.dim(0), 2 * dh.dim(1)});
  c.kernels.swiglu_grad(c.stream, dh, saved.gate_up, dpre);
  return gate_up.Backward(c, dpre, saved.x);
}

}  // namespace mneme
