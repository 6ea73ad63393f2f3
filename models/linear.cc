#include "models/linear.h"

#include <utility>

namespace mneme {

Piece MatrixPiece(std::string name, int64_t rows, int64_t cols, double std) {
  Piece piece;
  piece.name = std::move(name);
  piece.rows = rows;
  piece.cols = cols;
  piece.init = Init::Normal(std);
  return piece;
}

Tensor ProjectAccurate(Context& c, const Tensor& x, const Tensor& w) {
  Tensor y = c.EmptyAccurate({x.dim(0), w.dim(0)});
  c.kernels.matmul(c.stream, x, Trans::kNo, w, Trans::kYes, {}, y);
  return y;
}

Linear Linear::Declare(ParameterStore& store, const std::string& name, int64_t out, int64_t in,
                       double std, Reading reading) {
  Linear linear;
  linear.weight = store.Declare(name, {out, in}, View::kDense, UpdateKind::kMuon,
                                {MatrixPiece(name, out, in, std)}, reading);
  return linear;
}

Tensor Linear::Forward(Context& c, const Tensor& x, const Tensor& addend) const {
  Tensor y = c.Empty({x.dim(0), weight->value.dim(0)});
  c.kernels.matmul(c.stream, x, Trans::kNo, weight->value, Trans::kYes, addend, y);
  return y;
}

Tensor Linear::Backward(Context& c, const Tensor& dy, const Tensor& x, const Tensor& addend) const {
  Tensor dx = c.Empty({x.dim(0), x.dim(1)});
  c.kernels.matmul(c.stream, dy, Trans::kNo, weight->value, Trans::kNo, addend, dx);
  AddWeightGradient(c, dy, x);
  return dx;
}

void Linear::AddBackward(Context& c, const Tensor& dy, const Tensor& x, Tensor& dx) const {
  AddInputGradient(c, dy, dx);
  AddWeightGradient(c, dy, x);
}

void Linear::AddInputGradient(Context& c, const Tensor& dy, Tensor& dx) const {
  c.kernels.matmul(c.stream, dy, Trans::kNo, weight->value, Trans::kNo, dx, dx);
}

void Linear::AddWeightGradient(Context& c, const Tensor& dy, const Tensor& x) const {
  c.kernels.matmul(c.stream, dy, Trans::kYes, x, Trans::kNo, weight->grad, weight->grad);
}

}  // namespace mneme
