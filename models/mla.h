// Multi-head latent attention with decoupled rotary positions (docs/mathematics.md).
#pragma once

#include <optional>
#include <string>

#include "configs/model.h"
#include "models/layer.h"
#include "models/linear.h"
#include "models/norm.h"

namespace mneme {

struct Mla {
  static constexpr Part kPart = Part::kAttention;
  // H heads, L = kv_lora_rank, A = q_lora_rank, N = qk_nope, R = qk_rope, U = v_head.
  struct Saved {
    Tensor x;                   // [T, D]
    Tensor q_latent, q_normed;  // [T, A]; undefined without query compression
    Tensor kv_latent;           // [T, L + R]: latent, then the rotary key as it came
    Tensor kv_normed;           // [T, L]
    Norm::Saved q_norm, kv_norm;
    Tensor q;     // [T, H, N + R], rotated
    Tensor kv;    // [T, H, N + U]
    Tensor k_pe;  // [T, R], rotated
    Tensor out;   // [T, H, U]
    Tensor lse;   // [T, H]

    template <class F>
    void ForEachTensor(F&& f) const {
      for (const Tensor* t : {&x, &q_latent, &q_normed, &kv_latent, &kv_normed, &q_norm.rstd,
                              &kv_norm.rstd, &q, &kv, &k_pe, &out, &lse}) {
        f(*t);
      }
    }
  };

  MlaConfig config;
  Linear q;                   // [H (N + R), D], or [.., A] behind q_a and q_norm ("q_b")
  std::optional<Linear> q_a;  // [A, D]
  std::optional<Norm> q_norm;
  Linear kv_a;  // [L + R, D]: latent, then the rotary key
  Norm kv_norm;
  Linear kv_b;  // [H (N + U), L]
  Linear o;     // [D, H U]

  // Pieces prefix.{q | q_a, q_norm, q_b}, .kv_a, .kv_norm, .kv_b, .o.
  static Mla Declare(ParameterStore& store, const std::string& prefix, const ModelConfig& model);

  Tensor Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                 Saved* saved) const;
  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                  Saved saved) const;

 private:
  double Scale(const Pass& pass) const;
  void ForwardQuery(Context& c, const Pass& pass, Saved& note) const;
  void ForwardKeyValue(Context& c, const Pass& pass, Saved& note) const;
  // dq and dk_pe still rotated. dx of the queries, + skip; that of keys and values is added to it.
  Tensor BackwardQuery(Context& c, const Pass& pass, Tensor dq, const Tensor& skip,
                       const Saved& saved) const;
  void BackwardKeyValue(Context& c, const Pass& pass, const Tensor& dkv, const Tensor& dk_pe,
                        const Saved& saved, Tensor& dx) const;
};

}  // namespace mneme
