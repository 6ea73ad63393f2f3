// Conditional memory: hashed n-grams to rows, a gate by context, a short convolution
// (docs/mathematics.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "configs/model.h"
#include "models/layer.h"
#include "models/linear.h"
#include "models/norm.h"
#include "parallel/row_exchange.h"

namespace mneme {

// Acts on the residual streams at the entry of a block, before attention: x + Y
// (docs/mathematics.md).
struct Engram {
  // M gate branches: the streams, or 1 where the gate is single. B = M, or the streams where there
  // is no gate. Under `recompute` what stands below h is made again from e and h.
  struct Saved {
    FetchedRows fetched;      // the route back; its rows are e
    Tensor e;                 // [T, d_mem]
    Tensor h;                 // [T, M, D] the gate's query: the streams, or their mean
    Tensor kv;                // [T, (M + 1) D], or [T, D] without gate
    Tensor rh, rk, s, alpha;  // [T, M] of the gate
    Tensor u;                 // [T, B, D] gated values
    Tensor normed;            // [T B, D]; undefined without convolution
    Norm::Saved norm;

    template <class F>
    void ForEachTensor(F&& f) const {
      for (const Tensor* t : {&fetched.inverse, &fetched.order, &fetched.ids, &fetched.asked, &e,
                              &h, &kv, &rh, &rk, &s, &alpha, &u, &normed, &norm.rstd}) {
        f(*t);
      }
    }
  };

  EngramConfig config;
  int64_t streams = 1;
  int64_t branches = 1;  // of values: `streams`, or 1 where the gate is single
  NgramHash hash;
  Tensor canonical;             // i32 [V] shared by all layers
  Linear kv;                    // [(M + 1) D, d_mem]: keys, then the value
  Parameter* norm_h = nullptr;  // [M, D]
  Parameter* norm_k = nullptr;  // [M, D]
  Norm conv_norm;               // [B, D]
  Parameter* conv = nullptr;    // [B D, taps]
  std::shared_ptr<RowExchange> rows;
  bool recompute = false;

  // Pieces prefix.key.m, .value, .norm_h, .norm_k, .conv_norm, .conv; the table is `rows`. What a
  // switch turns off is not declared.
  static Engram Declare(ParameterStore& store, const std::string& prefix, const ModelConfig& model,
                        NgramHash hash, Tensor canonical, std::shared_ptr<RowExchange> rows);

  // Tells the exchange of a micro-batch that will be fetched. Collective.
  void Announce(Context& c, const MicroBatch& batch) const;
  // Starts the rows of a micro-batch on their way. They depend on token ids only. Collective.
  Pending<FetchedRows> Fetch(Context& c, const MicroBatch& batch) const;

  // x [T, streams, D] -> the same shape. saved may be null; gates, where not null, receives alpha
  // [T, M].
  Tensor Forward(Context& c, const Pass& pass, const Tensor& x, FetchedRows fetched, Saved* saved,
                 Tensor* gates) const;
  // Whether x + Y can be made again from what Forward left.
  bool remakes() const { return recompute && !single(); }
  // Where it can, before Backward, which then makes nothing again.
  Tensor Remake(Context& c, const Pass& pass, Saved& saved) const;
  // Returns dx; sends the rows' gradients to their owners. Collective.
  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, Saved saved) const;

 private:
  RowQuery Query(const MicroBatch& batch) const;
  bool gated() const { return config.gate.branches != "none"; }
  GateOptions Gate() const;
  int64_t Dilation() const;
  // Fills in what a note has below h; and of it Y.
  void ForwardGate(Context& c, Saved& note) const;
  void ForwardNorm(Context& c, Saved& note) const;
  Tensor ForwardConv(Context& c, const Pass& pass, const Tensor& addend, const Saved& note) const;
  // du of dY; and dh of du (undefined without gate).
  Tensor BackwardConv(Context& c, const Pass& pass, const Tensor& dy, const Saved& saved) const;
  Tensor BackwardGate(Context& c, const Tensor& du, const Tensor& addend, Saved& saved) const;
  bool single() const { return branches < streams; }
};

}  // namespace mneme
