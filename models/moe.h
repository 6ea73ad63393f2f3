// DeepSeekMoE with auxiliary-loss-free balancing (docs/mathematics.md): shared expert and routed
// experts, dropless.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "configs/model.h"
#include "models/layer.h"
#include "models/linear.h"
#include "models/mlp.h"
#include "parallel/expert_exchange.h"

namespace mneme {

// Running state of one MoE block that no gradient reaches.
struct RouterState {
  std::string name;  // "blocks.3.moe.router_bias"
  Tensor bias;       // accurate [E]
  Tensor load;       // i64 [E] tokens chosen in this step, this rank
};

// What the shared expert has to do is done while tokens travel: its first half on their way to the
// ranks of their experts, its second on their way back; backward the other way round. Collective
// over the expert axis; recomputation repeats no exchange but what `sends_again` says, and counts
// no load twice. The sum over the routed experts is added to what the shared one made, and to the
// skip.
struct Moe {
  static constexpr Part kPart = Part::kFeedForward;
  struct Saved {
    Tensor x;             // [T, D]
    Tensor scores;        // [T, E]
    Tensor experts;       // i32 [T, K]
    Tensor weights;       // [T, K]
    Tensor balance;       // [rows, E]; undefined without the balance loss
    RoutedTokens routed;  // what came over the wire; its x is dropped where it is sent again
    ExpertsSaved local;   // its gate_up is dropped under `recompute`; empty with several pieces
    Mlp::Saved shared;    // empty under `recompute`

    template <class F>
    void ForEachTensor(F&& f) const {
      for (const Tensor* t :
           {&x, &scores, &experts, &weights, &balance, &routed.x, &routed.experts, &routed.weights,
            &routed.sent, &local.offsets, &local.order, &local.place, &local.gate_up}) {
        f(*t);
      }
      shared.ForEachTensor(f);
    }
  };

  MoeConfig config;
  Linear router;                 // [E, D]
  Parameter* gate_up = nullptr;  // [E here, 2F, D]: gate, then up
  Parameter* down = nullptr;     // [E here, D, F]
  std::optional<Mlp> shared;     // one SwiGLU of config.shared_hidden()
  std::shared_ptr<ExpertExchange> exchange;
  RouterState* state = nullptr;  // owned by the stack
  bool recompute = false;
  bool sends_again = false;  // what came over the wire is not kept but sent once more

  // Pieces prefix.router, .shared.{gate,up,down}, .experts.E.{gate,up,down}; the experts of this
  // rank only. `state` is made by the caller (MakeRouterState) and outlives the layer.
  static Moe Declare(Context& c, ParameterStore& store, const std::string& prefix,
                     const ModelConfig& model, bool recompute, RouterState& state);

  // Where `saved` is null neither loads nor the balance loss move.
  Tensor Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                 Saved* saved) const;
  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                  Saved saved) const;

 private:
  RouteOptions Options() const;
  void ForwardRoute(Context& c, const Pass& pass, Saved& note, bool training) const;
  // y [R, D] of what came, in the pieces that there is room for; several leave nothing in local.
  Tensor ForwardExperts(Context& c, const RoutedTokens& routed, const Tensor& addend,
                        int64_t tokens, ExpertsSaved& local) const;
  // dx [R, D] and dweights [R, K] of what came. Consumes saved.local.
  ExpertExchange::SourceGrad BackwardExperts(Context& c, Saved& saved,
                                             Pending<Tensor> returning) const;
  std::vector<ExpertPiece> Pieces(Context& c, const RoutedTokens& routed, int64_t tokens) const;
  void ForwardPiece(Context& c, const RoutedTokens& routed, const ExpertPiece& piece,
                    const Tensor& addend, Tensor& y, ExpertsSaved& local) const;
  void ForwardPieceAgain(Context& c, const RoutedTokens& routed, const ExpertPiece& piece,
                         ExpertsSaved& local) const;
  // Adds the router's part to dx.
  void BackwardRoute(Context& c, const Pass& pass, const Tensor& dweights, const Saved& saved,
                     Tensor& dx) const;
};

// Bias and load 0.
RouterState MakeRouterState(Context& c, const std::string& prefix, int64_t experts);

}  // namespace mneme
