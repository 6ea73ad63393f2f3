#include "models/embedding.h"

#include "models/linear.h"

namespace mneme {

Embedding Embedding::Declare(ParameterStore& store, const std::string& name, int64_t vocabulary,
                             int64_t width, double std) {
  return {store.Declare(name, {vocabulary, width}, View::kDense, UpdateKind::kAdamW,
                        {MatrixPiece(name, vocabulary, width, std)})};
}

Tensor Embedding::Forward(Context& c, const Tensor& tokens) const {
  Tensor x = c.Empty({tokens.elements(), table->shape[1]});
  c.kernels.gather_rows(c.stream, table->value, tokens, x);
  return x;
}

void Embedding::Backward(Context& c, const Tensor& dy, const Tensor& tokens) const {
  c.kernels.scatter_add_rows(c.stream, dy, tokens, table->grad);
}

}  // namespace mneme
