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

Tensor Project(Context& c, const Tensor& x, const Tensor& w) {
  Tensor y = c.Empty({x.dim(0), w.dim(0)});
  c.kernels.matmul(c.stream, x, Trans::kNo, w, Trans::kYes, false, y);
  return y;
}

Tensor ProjectAccurate(Context& c, const Tensor& x, const Tensor& w) {
  Tensor y = c.EmptyAccurate({x.dim(0), w.dim(0)});
  c.kernels.matmul(c.stream, x, Trans::kNo, w, Trans::kYes, false, y);
  return y;
}

void ProjectGrad(Context& c, const Tensor& dy, const Tensor& x, const Tensor& w, bool accumulate,
                 Tensor& dw, Tensor& dx) {
  c.kernels.matmul(c.stream, dy, Trans::kNo, w, Trans::kNo, accumulate, dx);
  c.kernels.matmul(c.stream, dy, Trans::kYes, x, Trans::kNo, true, dw);
}

Linear Linear::Declare(ParameterStore& store, const std::string& name, int64_t out, int64_t in,
                       double std, Reading reading) {
  return {store.Declare(name, {out, in}, View::kDense, UpdateKind::kMuon,
                        {MatrixPiece(name, out, in, std)}, reading)};
}

void Linear::AddForward(Context& c, const Tensor& x, Tensor& y) const {
  c.kernels.matmul(c.stream, x, Trans::kNo, weight->value, Trans::kYes, true, y);
}

Tensor Linear::Backward(Context& c, const Tensor& dy, const Tensor& x) const {
  Tensor dx = c.Empty({x.dim(0), x.dim(1)});
  ProjectGrad(c, dy, x, weight->value, false, weight->grad, dx);
  return dx;
}

void Linear::AddBackward(Context& c, const Tensor& dy, const Tensor& x, Tensor& dx) const {
  ProjectGrad(c, dy, x, weight->value, true, weight->grad, dx);
}

}  // namespace mneme
