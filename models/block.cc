#include "models/block.h"

#include <utility>

namespace mneme {
namespace {

template <class Inner>
HyperConnected<Inner> Connect(ParameterStore& store, const std::string& prefix,
                              const ModelConfig& model, const RecomputePlan& recompute,
                              Inner inner) {
  HyperConnected<Inner> connected;
  connected.inner = std::move(inner);
  connected.recompute = recompute.mhc;
  if (model.mhc.streams > 1) {
    connected.mixes = HyperMixes::Declare(store, prefix + ".hyper", model);
  }
  return connected;
}

}  // namespace

Block Block::Declare(Context& c, ParameterStore& store, int64_t index, const ModelConfig& model,
                     const RecomputePlan& recompute, std::optional<Engram> engram,
                     RouterState* router) {
  const std::string prefix = "blocks." + std::to_string(index);
  const std::string attention = prefix + ".attention";
  const std::string ffn = prefix + ".ffn";
  Block block;
  block.engram = std::move(engram);
  if (block.engram.has_value()) block.engram->recompute = recompute.engram;
  PreNormed<Mla> mla{Norm::Declare(store, attention + ".norm", 1, model.hidden, model.norm_eps),
                     Mla::Declare(store, attention, model)};
  block.attention = Connect(store, attention, model, recompute,
                            Recomputed<PreNormed<Mla>>{std::move(mla), recompute.attention});
  const Norm norm = Norm::Declare(store, ffn + ".norm", 1, model.hidden, model.norm_eps);
  if (model.is_moe_block(index)) {
    PreNormed<Moe> moe{norm, Moe::Declare(c, store, prefix + ".moe", model, recompute.ffn, *router),
                       recompute.ffn};
    moe.inner.sends_again = recompute.exchange;
    block.experts = Connect(store, ffn, model, recompute, std::move(moe));
  } else {
    PreNormed<Mlp> mlp{norm, Mlp::Declare(store, prefix + ".mlp", model.hidden, model.dense_width,
                                          model.init_std)};
    block.dense = Connect(store, ffn, model, recompute,
                          Recomputed<PreNormed<Mlp>>{std::move(mlp), recompute.ffn});
  }
  return block;
}

ResidualStreams Block::Forward(Context& c, const Pass& pass, const ResidualStreams& x,
                               Pending<FetchedRows>* rows, Saved* saved, Tensor* gates) const {
  ResidualStreams y = x;
  if (engram.has_value() && rows != nullptr) {
    if (saved != nullptr) saved->engram.emplace();
    const Tensor settled = x.Settle(c);
    FetchedRows fetched = c.In(Part::kExchange, [&] { return rows->Wait(c.stream); });
    y = engram->Forward(c, pass, settled, std::move(fetched), saved ? &*saved->engram : nullptr,
                        gates);
  }
  y = attention.Forward(c, pass, y, saved ? &saved->attention : nullptr);
  if (dense.has_value()) return dense->Forward(c, pass, y, saved ? &saved->dense : nullptr);
  return experts->Forward(c, pass, y, saved ? &saved->experts : nullptr);
}

void Block::DropStreams(Saved& saved, bool first) const {
  const bool remakes = saved.engram.has_value() && engram->remakes();
  if (!first || remakes) saved.attention.x = Tensor();
  saved.dense.x = Tensor();
  saved.experts.x = Tensor();
}

Tensor Block::FirstStreams(Context& c, const Pass& pass, Saved& saved) const {
  return saved.attention.x.defined() ? saved.attention.x : engram->Remake(c, pass, *saved.engram);
}

ResidualStreams Block::RemakeStreams(Context& c, const ResidualStreams& streams,
                                     Saved& saved) const {
  const ResidualStreams y = attention.Remake(c, streams, saved.attention);
  if (dense.has_value()) return dense->Remake(c, y, saved.dense);
  return experts->Remake(c, y, saved.experts);
}

Tensor Block::Backward(Context& c, const Pass& pass, const Tensor& dy, Saved saved) const {
  Tensor dx = dense.has_value() ? dense->Backward(c, pass, dy, std::move(saved.dense))
                                : experts->Backward(c, pass, dy, std::move(saved.experts));
  dx = attention.Backward(c, pass, dx, std::move(saved.attention));
  if (saved.engram.has_value()) {
    dx = engram->Backward(c, pass, dx, std::move(*saved.engram));
  }
  return dx;
}

}  // namespace mneme
