#include "models/engram.h"

#include <algorithm>
#include <utility>

namespace mneme {
namespace {

Parameter* DeclareVector(ParameterStore& store, const std::string& name, int64_t rows, int64_t cols,
                         Init init) {
  Piece piece;
  piece.name = name;
  piece.rows = rows;
  piece.cols = cols;
  piece.init = std::move(init);
  return store.Declare(name, {rows, cols}, View::kDense, UpdateKind::kAdamW, {piece},
                       Reading::kAccurate);
}

}  // namespace

Engram Engram::Declare(ParameterStore& store, const std::string& prefix, const ModelConfig& model,
                       NgramHash hash, Tensor canonical, std::shared_ptr<RowExchange> rows) {
  Engram engram;
  engram.config = model.engram;
  engram.streams = model.mhc.streams;
  engram.branches = model.engram.gate.branches == "single" ? 1 : model.mhc.streams;
  engram.hash = std::move(hash);
  engram.canonical = std::move(canonical);
  engram.rows = std::move(rows);
  const int64_t d = model.hidden;
  const int64_t memory = model.engram.d_mem;
  const int64_t keys = engram.gated() ? engram.branches : 0;
  std::vector<Piece> pieces;
  for (int64_t m = 0; m < keys; ++m) {
    pieces.push_back(MatrixPiece(prefix + ".key." + std::to_string(m), d, memory, model.init_std));
  }
  pieces.push_back(MatrixPiece(prefix + ".value", d, memory, model.init_std));
  engram.kv.weight = store.Declare(prefix + ".kv", {(keys + 1) * d, memory}, View::kDense,
                                   UpdateKind::kMuon, std::move(pieces));
  if (engram.gated()) {
    engram.norm_h = DeclareVector(store, prefix + ".norm_h", keys, d, Init::Constant(1.0));
    engram.norm_k = DeclareVector(store, prefix + ".norm_k", keys, d, Init::Constant(1.0));
  }
  if (model.engram.conv.enabled) {
    const ConvConfig& conv = model.engram.conv;
    engram.conv_norm =
        Norm::Declare(store, prefix + ".conv_norm", engram.branches, d, conv.norm_eps);
    engram.conv =
        DeclareVector(store, prefix + ".conv", engram.branches * d, conv.kernel,
                      conv.zero_init ? Init::Constant(0.0) : Init::Normal(model.init_std));
  }
  return engram;
}

GateOptions Engram::Gate() const {
  GateOptions options;
  options.signed_sqrt = config.gate.transform == "signed_sqrt";
  options.clamp = config.gate.clamp;
  options.eps = config.gate.norm_eps;
  options.gated = gated();
  return options;
}

int64_t Engram::Dilation() const {
  return config.conv.dilation > 0 ? config.conv.dilation
                                  : *std::max_element(config.orders.begin(), config.orders.end());
}

RowQuery Engram::Query(const MicroBatch& batch) const {
  return {hash, batch.tokens, canonical, batch.length, batch.doc_start};
}

void Engram::Announce(Context& c, const MicroBatch& batch) const {
  const InPart part(c.parts, Part::kExchange);
  rows->Announce(c.stream, Query(batch));
}

Pending<FetchedRows> Engram::Fetch(Context& c, const MicroBatch& batch) const {
  const InPart part(c.parts, Part::kExchange);
  return rows->Fetch(c.stream, Query(batch), c.dtype);
}

void Engram::ForwardGate(Context& c, Saved& note) const {
  const int64_t tokens = note.h.dim(0);
  const int64_t width = note.h.dim(2);
  note.kv = kv.Forward(c, note.e);
  note.rh = c.EmptyAccurate({tokens, branches});
  note.rk = c.EmptyAccurate({tokens, branches});
  note.s = c.EmptyAccurate({tokens, branches});
  note.alpha = c.EmptyAccurate({tokens, branches});
  note.u = c.Empty({tokens, branches, width});
  const Tensor w_h = gated() ? norm_h->value : Tensor();
  const Tensor w_k = gated() ? norm_k->value : Tensor();
  c.kernels.engram_gate(c.stream, Gate(), note.h, note.kv, w_h, w_k, note.rh, note.rk, note.s,
                        note.alpha, note.u);
}

void Engram::ForwardNorm(Context& c, Saved& note) const {
  if (conv == nullptr) return;
  const Shape shape = note.u.shape();
  note.normed = conv_norm.Forward(c, note.u.Reshape({shape[0] * shape[1], shape[2]}), &note.norm);
}

// Y [T, B, D] of u, + addend.
Tensor Engram::ForwardConv(Context& c, const Pass& pass, const Tensor& addend,
                           const Saved& note) const {
  const Shape shape = note.u.shape();
  Tensor y = c.Empty(shape);
  if (conv == nullptr) {
    c.kernels.copy(c.stream, note.u, y);
    if (addend.defined()) c.kernels.add(c.stream, addend, y);
    return y;
  }
  const Shape channels = {shape[0], shape[1] * shape[2]};
  Tensor flat = y.Reshape(channels);
  c.kernels.short_conv(c.stream, note.normed.Reshape(channels), note.u.Reshape(channels),
                       addend.defined() ? addend.Reshape(channels) : addend, conv->value,
                       Dilation(), pass.batch.length, pass.batch.doc_start, flat);
  return y;
}

Tensor Engram::Forward(Context& c, const Pass& pass, const Tensor& x, FetchedRows fetched,
                       Saved* saved, Tensor* gates) const {
  const InPart part(c.parts, Part::kMemory);
  const int64_t tokens = x.dim(0);
  const int64_t width = x.dim(2);
  Saved note;
  note.e = fetched.rows.Reshape({tokens, config.d_mem});
  note.fetched = std::move(fetched);
  note.fetched.rows = Tensor();
  note.h = x;
  if (single()) {
    Tensor mean = c.Empty({tokens, width});
    c.kernels.hyper_reduce(c.stream, x, 1.0 / static_cast<double>(streams), mean);
    note.h = mean.Reshape({tokens, 1, width});
  }
  ForwardGate(c, note);
  ForwardNorm(c, note);
  Tensor y = ForwardConv(c, pass, single() ? Tensor() : x, note);
  if (single()) {
    Tensor all = c.Empty(x.shape());
    c.kernels.hyper_expand(c.stream, y.Reshape({tokens, width}), all);
    c.kernels.add(c.stream, x, all);
    y = all;
  }
  if (gates != nullptr) *gates = note.alpha;
  if (saved == nullptr) return y;
  if (recompute) {
    saved->fetched = std::move(note.fetched);
    saved->e = note.e;
    saved->h = note.h;
  } else {
    *saved = std::move(note);
  }
  return y;
}

Tensor Engram::Remake(Context& c, const Pass& pass, Saved& saved) const {
  const InPart part(c.parts, Part::kMemory);
  ForwardGate(c, saved);
  ForwardNorm(c, saved);
  return ForwardConv(c, pass, saved.h, saved);
}

Tensor Engram::BackwardConv(Context& c, const Pass& pass, const Tensor& dy,
                            const Saved& saved) const {
  const Shape shape = saved.u.shape();
  if (conv == nullptr) return dy;
  const Shape channels = {shape[0], shape[1] * shape[2]};
  const Shape vectors = {shape[0] * shape[1], shape[2]};
  Tensor dn = c.Empty(channels);
  c.kernels.short_conv_grad(c.stream, dy.Reshape(channels), saved.normed.Reshape(channels),
                            conv->value, Dilation(), pass.batch.length, pass.batch.doc_start, dn,
                            conv->grad);
  // du = dY (the skip) + the norm's gradient.
  return conv_norm
      .Backward(c, dn.Reshape(vectors), saved.u.Reshape(vectors), dy.Reshape(vectors), saved.norm)
      .Reshape(shape);
}

// The gradient of h, + addend; undefined where there is no gate.
Tensor Engram::BackwardGate(Context& c, const Tensor& du, const Tensor& addend,
                            Saved& saved) const {
  Tensor dh = c.Empty(saved.h.shape());
  Tensor dkv = c.Empty(saved.kv.shape());
  const Tensor w_h = gated() ? norm_h->value : Tensor();
  const Tensor w_k = gated() ? norm_k->value : Tensor();
  Tensor dw_h = gated() ? norm_h->grad : Tensor();
  Tensor dw_k = gated() ? norm_k->grad : Tensor();
  c.kernels.engram_gate_grad(c.stream, Gate(), du, addend, saved.h, saved.kv, w_h, w_k, saved.rh,
                             saved.rk, saved.s, saved.alpha, dh, dkv, dw_h, dw_k);
  const int64_t heads = static_cast<int64_t>(hash.primes.size());
  const Tensor de = kv.Backward(c, dkv, saved.e);
  {
    const InPart part(c.parts, Part::kExchange);
    rows->PushGradient(c.stream, saved.fetched,
                       de.Reshape({de.dim(0) * heads, config.d_mem / heads}));
  }
  return gated() ? dh : Tensor();
}

Tensor Engram::Backward(Context& c, const Pass& pass, const Tensor& dy, Saved saved) const {
  const InPart part(c.parts, Part::kMemory);
  const int64_t tokens = dy.dim(0);
  const int64_t width = dy.dim(2);
  if (!saved.kv.defined()) {
    ForwardGate(c, saved);
    ForwardNorm(c, saved);
  }
  Tensor dvalue = dy;
  if (single()) {
    dvalue = c.Empty({tokens, 1, width});
    Tensor sum = dvalue.Reshape({tokens, width});
    c.kernels.hyper_reduce(c.stream, dy, 1.0, sum);
  }
  const Tensor du = BackwardConv(c, pass, dvalue, saved);
  saved.u = saved.normed = Tensor();
  Tensor dx = BackwardGate(c, du, single() ? Tensor() : dy, saved);
  if (!dx.defined()) return dy;
  if (!single()) return dx;
  Tensor share = c.Empty({tokens, width});
  c.kernels.hyper_reduce(c.stream, dx, 1.0 / static_cast<double>(streams), share);
  dx = c.Empty(dy.shape());
  c.kernels.hyper_expand(c.stream, share, dx);
  c.kernels.add(c.stream, dy, dx);
  return dx;
}

}  // namespace mneme
