#include "models/mla.h"

#include <cmath>
#include <utility>

namespace mneme {
namespace {

AttentionShape ShapeOf(const MlaConfig& config, const MicroBatch& batch) {
  AttentionShape shape;
  shape.rows = batch.rows;
  shape.length = batch.length;
  shape.heads = config.heads;
  shape.nope = config.qk_nope;
  shape.rope = config.qk_rope;
  shape.value = config.v_head;
  shape.documents = batch.documents;
  return shape;
}

void Rotate(Context& c, const Pass& pass, int64_t begin, bool inverse, Tensor x) {
  c.kernels.rope(c.stream, x, begin, pass.rotary.table, pass.batch.positions, inverse);
}

}  // namespace

Mla Mla::Declare(ParameterStore& store, const std::string& prefix, const ModelConfig& model) {
  const MlaConfig& m = model.mla;
  const double std = model.init_std;
  Mla mla;
  mla.config = m;
  const int64_t q_width = m.heads * (m.qk_nope + m.qk_rope);
  if (m.q_lora_rank > 0) {
    mla.q_a = Linear::Declare(store, prefix + ".q_a", m.q_lora_rank, model.hidden, std);
    mla.q_norm = Norm::Declare(store, prefix + ".q_norm", 1, m.q_lora_rank, model.norm_eps);
    mla.q = Linear::Declare(store, prefix + ".q_b", q_width, m.q_lora_rank, std);
  } else {
    mla.q = Linear::Declare(store, prefix + ".q", q_width, model.hidden, std);
  }
  mla.kv_a =
      Linear::Declare(store, prefix + ".kv_a", m.kv_lora_rank + m.qk_rope, model.hidden, std);
  mla.kv_norm = Norm::Declare(store, prefix + ".kv_norm", 1, m.kv_lora_rank, model.norm_eps);
  mla.kv_b = Linear::Declare(store, prefix + ".kv_b", m.heads * (m.qk_nope + m.v_head),
                             m.kv_lora_rank, std);
  mla.o = Linear::Declare(store, prefix + ".o", model.hidden, m.heads * m.v_head, std);
  return mla;
}

double Mla::Scale(const Pass& pass) const {
  return pass.rotary.score_scale / std::sqrt(static_cast<double>(config.qk_nope + config.qk_rope));
}

void Mla::ForwardQuery(Context& c, const Pass& pass, Saved& note) const {
  const int64_t tokens = note.x.dim(0);
  if (q_a.has_value()) {
    note.q_latent = q_a->Forward(c, note.x);
    note.q_normed = q_norm->Forward(c, note.q_latent, &note.q_norm);
  }
  const Tensor& in = q_a.has_value() ? note.q_normed : note.x;
  note.q = q.Forward(c, in).Reshape({tokens, config.heads, config.qk_nope + config.qk_rope});
  Rotate(c, pass, config.qk_nope, false, note.q);
}

void Mla::ForwardKeyValue(Context& c, const Pass& pass, Saved& note) const {
  const int64_t tokens = note.x.dim(0);
  note.kv_latent = kv_a.Forward(c, note.x);
  note.kv_normed = c.Empty({tokens, config.kv_lora_rank});
  note.k_pe = c.Empty({tokens, config.qk_rope});
  note.kv_norm.rstd = c.EmptyAccurate({tokens});
  c.kernels.latent(c.stream, note.kv_latent, kv_norm.gain->value, kv_norm.eps, pass.rotary.table,
                   pass.batch.positions, note.kv_normed, note.k_pe, note.kv_norm.rstd);
  note.kv = kv_b.Forward(c, note.kv_normed)
                .Reshape({tokens, config.heads, config.qk_nope + config.v_head});
}

Tensor Mla::Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                    Saved* saved) const {
  const int64_t tokens = x.dim(0);
  Saved note;
  note.x = x;
  ForwardQuery(c, pass, note);
  ForwardKeyValue(c, pass, note);
  note.out = c.Empty({tokens, config.heads, config.v_head});
  note.lse = c.EmptyAccurate({tokens, config.heads});
  c.kernels.attention(c.stream, ShapeOf(config, pass.batch), Scale(pass), note.q, note.kv,
                      note.k_pe, pass.batch.doc_start, note.out, note.lse);
  Tensor y = o.Forward(c, note.out.Reshape({tokens, config.heads * config.v_head}), skip);
  if (saved != nullptr) *saved = std::move(note);
  return y;
}

Tensor Mla::Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                     Saved saved) const {
  const int64_t tokens = dy.dim(0);
  const int64_t width = config.heads * config.v_head;
  const Tensor dout = o.Backward(c, dy, saved.out.Reshape({tokens, width}))
                          .Reshape({tokens, config.heads, config.v_head});
  Tensor dq = c.Empty(saved.q.shape());
  Tensor dkv = c.Empty(saved.kv.shape());
  Tensor dk_pe = c.Empty(saved.k_pe.shape());
  c.kernels.attention_grad(c.stream, ShapeOf(config, pass.batch), Scale(pass), dout, saved.q,
                           saved.kv, saved.k_pe, pass.batch.doc_start, saved.out, saved.lse, dq,
                           dkv, dk_pe);
  saved.q = saved.kv = saved.out = Tensor();
  Tensor dx = BackwardQuery(c, pass, std::move(dq), skip, saved);
  BackwardKeyValue(c, pass, dkv, dk_pe, saved, dx);
  return dx;
}

Tensor Mla::BackwardQuery(Context& c, const Pass& pass, Tensor dq, const Tensor& skip,
                          const Saved& saved) const {
  Rotate(c, pass, config.qk_nope, true, dq);
  dq = dq.Reshape({dq.dim(0), dq.dim(1) * dq.dim(2)});
  if (!q_a.has_value()) return q.Backward(c, dq, saved.x, skip);
  const Tensor dnormed = q.Backward(c, dq, saved.q_normed);
  const Tensor dlatent = q_norm->Backward(c, dnormed, saved.q_latent, {}, saved.q_norm);
  return q_a->Backward(c, dlatent, saved.x, skip);
}

void Mla::BackwardKeyValue(Context& c, const Pass& pass, const Tensor& dkv, const Tensor& dk_pe,
                           const Saved& saved, Tensor& dx) const {
  const Tensor dnormed =
      kv_b.Backward(c, dkv.Reshape({dkv.dim(0), dkv.dim(1) * dkv.dim(2)}), saved.kv_normed);
  Tensor dlatent = c.Empty(saved.kv_latent.shape());
  c.kernels.latent_grad(c.stream, dnormed, dk_pe, saved.kv_latent, kv_norm.gain->value,
                        saved.kv_norm.rstd, pass.rotary.table, pass.batch.positions, dlatent,
                        kv_norm.gain->grad);
  kv_a.AddBackward(c, dlatent, saved.x, dx);
}

}  // namespace mneme
