#include "models/norm.h"

namespace mneme {

Norm Norm::Declare(ParameterStore& store, const std::string& name, int64_t branches, int64_t width,
                   double eps) {
  Piece piece;
  piece.name = name;
  piece.rows = branches;
  piece.cols = width;
  piece.init = Init::Constant(1.0);
  return {store.Declare(name, {branches, width}, View::kDense, UpdateKind::kAdamW, {piece},
                        Reading::kAccurate),
          eps};
}

Tensor Norm::Forward(Context& c, const Tensor& x, Saved* saved) const {
  Tensor y = c.Empty({x.dim(0), x.dim(1)});
  Tensor rstd = c.EmptyAccurate({x.dim(0)});
  c.kernels.rms_norm(c.stream, x, gain->value, eps, y, rstd);
  if (saved != nullptr) saved->rstd = rstd;
  return y;
}

Tensor Norm::Backward(Context& c, const Tensor& dy, const Tensor& x, const Tensor& skip,
                      const Saved& saved) const {
  Tensor dx = c.Empty({x.dim(0), x.dim(1)});
  c.kernels.rms_norm_grad(c.stream, dy, x, gain->value, saved.rstd, skip, dx, gain->grad);
  return dx;
}

}  // namespace mneme
