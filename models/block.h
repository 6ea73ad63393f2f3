// One block: [engram] + attention + feed-forward on the residual streams (docs/mathematics.md).
#pragma once

#include <optional>
#include <string>

#include "models/engram.h"
#include "models/hyper_connection.h"
#include "models/mla.h"
#include "models/mlp.h"
#include "models/moe.h"
#include "models/norm.h"

namespace mneme {

struct Block {
  using Attention = HyperConnected<Recomputed<PreNormed<Mla>>>;
  using Dense = HyperConnected<Recomputed<PreNormed<Mlp>>>;
  using Experts = HyperConnected<PreNormed<Moe>>;

  struct Saved {
    std::optional<Engram::Saved> engram;  // present where it ran
    Attention::Saved attention;
    Dense::Saved dense;      // one of
    Experts::Saved experts;  // these two

    template <class F>
    void ForEachTensor(F&& f) const {
      if (engram.has_value()) engram->ForEachTensor(f);
      attention.ForEachTensor(f);
      dense.ForEachTensor(f);
      experts.ForEachTensor(f);
    }
  };

  std::optional<Engram> engram;  // at the entry, before attention
  Attention attention;
  std::optional<Dense> dense;      // one of
  std::optional<Experts> experts;  // these two

  // Block `index` of the model, under "blocks.<index>". `engram`: its memory, if it has one;
  // `router`: the state of its router, if it is a MoE block.
  static Block Declare(Context& c, ParameterStore& store, int64_t index, const ModelConfig& model,
                       const RecomputePlan& recompute, std::optional<Engram> engram,
                       RouterState* router);

  // x [T, n, D]. `rows` (null: memory off, or none here) is waited for. gates as in
  // Engram::Forward.
  ResidualStreams Forward(Context& c, const Pass& pass, const ResidualStreams& x,
                          Pending<FetchedRows>* rows, Saved* saved, Tensor* gates) const;
  // dy [T, n, D] -> dx; consumes the note. Collective where Forward was.
  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, Saved saved) const;

  // Under the recomputation of mHC streams need not be kept where those of a block before are: y of
  // every sub-layer is, and from there it is one pass over them. Drops them, but, where `first`,
  // those of the first sub-layer, which a memory that is made again can make too.
  void DropStreams(Saved& saved, bool first) const;
  // Those of the first sub-layer of a block where they were first, kept or made again.
  Tensor FirstStreams(Context& c, const Pass& pass, Saved& saved) const;
  // Makes them again before Backward, from what the block before handed on (with `first`: from what
  // is kept). Returns what this one did.
  ResidualStreams RemakeStreams(Context& c, const ResidualStreams& streams, Saved& saved) const;
};

}  // namespace mneme
