#include "models/hyper_connection.h"

#include <cmath>
#include <vector>

#include "models/linear.h"

namespace mneme {
namespace {

// Scales and biases: AdamW without decay (docs/mathematics.md).
Parameter* DeclareVector(ParameterStore& store, const std::string& name, int64_t n, Init init) {
  Piece piece;
  piece.name = name;
  piece.rows = 1;
  piece.cols = n;
  piece.init = std::move(init);
  piece.decays = false;
  return store.Declare(name, {n}, View::kDense, UpdateKind::kAdamW, {piece}, Reading::kAccurate);
}

// Identity: h is the mean of the streams, y goes to each with weight 1, H_res is close to 1.
// Uniform: all 0 (docs/mathematics.md).
Init MixBiases(int64_t n, bool identity) {
  std::vector<double> b(static_cast<size_t>(n * n + 2 * n), 0.0);
  if (!identity) return Init::Values(std::move(b));
  for (int64_t i = 0; i < n; ++i) {
    b[static_cast<size_t>(i)] = -std::log(static_cast<double>(n - 1));
    for (int64_t j = 0; j < n; ++j) {
      if (i != j) b[static_cast<size_t>(2 * n + n * i + j)] = -8.0;
    }
  }
  return Init::Values(std::move(b));
}

}  // namespace

HyperOptions HyperOptionsOf(const ModelConfig& model) {
  HyperOptions options;
  options.streams = model.mhc.streams;
  options.sinkhorn_iterations = model.mhc.sinkhorn_iterations;
  options.norm_eps = model.norm_eps;
  options.eps = model.mhc.eps;
  options.post_mult = model.mhc.post_mult;
  return options;
}

HyperMixes HyperMixes::Declare(ParameterStore& store, const std::string& prefix,
                               const ModelConfig& model) {
  const int64_t n = model.mhc.streams;
  const int64_t mixes = n * n + 2 * n;
  HyperMixes hyper;
  hyper.options = HyperOptionsOf(model);
  hyper.phi = Linear::Declare(store, prefix + ".phi", n * model.hidden, mixes, model.init_std,
                              Reading::kAccurate)
                  .weight;
  hyper.alpha = DeclareVector(store, prefix + ".alpha", 3, Init::Constant(model.mhc.alpha_init));
  hyper.bias =
      DeclareVector(store, prefix + ".bias", mixes, MixBiases(n, model.mhc.init == "identity"));
  return hyper;
}

Tensor ResidualStreams::Settle(Context& c) const {
  if (!y.defined()) return x;
  const InPart part(c.parts, Part::kStreams);
  Tensor out = c.Empty(x.shape());
  c.kernels.hyper_leave(c.stream, x, res, post, y, out);
  return out;
}

Tensor HyperMixes::Enter(Context& c, const ResidualStreams& streams, Tensor& x, Saved& note) const {
  const Tensor before = streams.x;
  const int64_t tokens = before.dim(0);
  const int64_t n = before.dim(1);
  note.r = c.EmptyAccurate({tokens});
  note.m = c.EmptyAccurate({tokens, n * n + 2 * n});
  note.pre = c.EmptyAccurate({tokens, n});
  note.post = c.EmptyAccurate({tokens, n});
  note.res = c.EmptyAccurate({tokens, n, n});
  Tensor h = c.Empty({tokens, before.dim(2)});
  if (!streams.y.defined()) {
    x = before;
    c.kernels.hyper_enter(c.stream, options, x, phi->value, alpha->value, bias->value, note.r,
                          note.m, note.pre, note.post, note.res, h);
    return h;
  }
  x = c.Empty(before.shape());
  c.kernels.hyper_leave_enter(c.stream, options, before, streams.res, streams.post, streams.y, x,
                              phi->value, alpha->value, bias->value, note.r, note.m, note.pre,
                              note.post, note.res, h);
  return h;
}

HyperMixes::LeaveGrad HyperMixes::BackwardLeave(Context& c, const Tensor& dout, const Tensor& x,
                                                const Saved& note, const Tensor& y) const {
  LeaveGrad grad{c.EmptyAccurate(note.res.shape()), c.EmptyAccurate(note.post.shape()),
                 c.Empty(y.shape())};
  c.kernels.hyper_leave_grad(c.stream, dout, x, note.post, y, grad.dres, grad.dpost, grad.dy);
  return grad;
}

Tensor HyperMixes::BackwardEnter(Context& c, const Tensor& dout, const Tensor& dh, const Tensor& x,
                                 const Saved& note, const LeaveGrad& grad) const {
  Tensor dx = c.Empty(x.shape());
  c.kernels.hyper_enter_grad(c.stream, options, dout, dh, grad.dres, grad.dpost, x, phi->value,
                             alpha->value, bias->value, note.r, note.m, note.pre, note.res, dx,
                             phi->grad, alpha->grad, bias->grad);
  return dx;
}

Readout Readout::Declare(ParameterStore& store, const ModelConfig& model) {
  const int64_t n = model.mhc.streams;
  Readout readout;
  readout.options = HyperOptionsOf(model);
  if (model.mhc.readout == "mean") readout.factor = 1.0 / static_cast<double>(n);
  if (n == 1 || model.mhc.readout != "learned") return readout;
  readout.fn =
      Linear::Declare(store, "readout.fn", n, n * model.hidden, model.init_std, Reading::kAccurate)
          .weight;
  readout.scale = DeclareVector(store, "readout.scale", 1, Init::Constant(0.01));
  readout.base = DeclareVector(store, "readout.base", n,
                               Init::Constant(-std::log(static_cast<double>(n - 1))));
  return readout;
}

Tensor Readout::Forward(Context& c, const Tensor& x, Saved* saved) const {
  const InPart part(c.parts, Part::kStreams);
  const int64_t tokens = x.dim(0);
  const int64_t n = x.dim(1);
  if (n == 1) return x.Reshape({tokens, x.dim(2)});
  Tensor h = c.Empty({tokens, x.dim(2)});
  if (fn == nullptr) {
    c.kernels.hyper_reduce(c.stream, x, factor, h);
    return h;
  }
  Saved note{x, c.EmptyAccurate({tokens}), c.EmptyAccurate({tokens, n}),
             c.EmptyAccurate({tokens, n})};
  c.kernels.hyper_read(c.stream, options, x, fn->value, scale->value, base->value, note.r,
                       note.logit, note.w, h);
  if (saved != nullptr) *saved = std::move(note);
  return h;
}

Tensor Readout::Backward(Context& c, const Tensor& dh, Saved saved) const {
  const InPart part(c.parts, Part::kStreams);
  const int64_t n = options.streams;
  const Shape shape = {dh.dim(0), n, dh.dim(1)};
  if (n == 1) return dh.Reshape(shape);
  Tensor dx = c.Empty(shape);
  if (fn == nullptr) {
    Tensor share = c.Empty(dh.shape());
    c.kernels.hyper_reduce(c.stream, dh.Reshape({dh.dim(0), 1, dh.dim(1)}), factor, share);
    c.kernels.hyper_expand(c.stream, share, dx);
    return dx;
  }
  c.kernels.hyper_read_grad(c.stream, options, dh, saved.x, fn->value, scale->value, base->value,
                            saved.r, saved.logit, saved.w, dx, fn->grad, scale->grad, base->grad);
  return dx;
}

}  // namespace mneme
