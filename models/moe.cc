#include "models/moe.h"

#include <utility>
#include <vector>

namespace mneme {
namespace {

struct ExpertParameters {
  Parameter* gate_up;
  Parameter* down;
};

// The experts of this rank, fused for the grouped products; each expert's matrices are pieces of
// their own, named by the expert's number among all.
ExpertParameters DeclareExperts(ParameterStore& store, const std::string& prefix, Range local,
                                int64_t width, int64_t hidden, double std) {
  std::vector<Piece> in;
  std::vector<Piece> out;
  for (int64_t e = local.begin; e < local.end; ++e) {
    const std::string name = prefix + ".experts." + std::to_string(e);
    in.push_back(MatrixPiece(name + ".gate", hidden, width, std));
    in.push_back(MatrixPiece(name + ".up", hidden, width, std));
    out.push_back(MatrixPiece(name + ".down", width, hidden, std));
  }
  const int64_t n = local.size();
  return {store.Declare(prefix + ".experts.gate_up", {n, 2 * hidden, width}, View::kExpert,
                        UpdateKind::kMuon, std::move(in)),
          store.Declare(prefix + ".experts.down", {n, width, hidden}, View::kExpert,
                        UpdateKind::kMuon, std::move(out))};
}

}  // namespace

RouterState MakeRouterState(Context& c, const std::string& prefix, int64_t experts) {
  return {prefix + ".router_bias",
          Tensor::Zeros(c.stream, Accurate(c.dtype), {experts}, MemoryTag::kParameters),
          Tensor::Zeros(c.stream, DType::kI64, {experts}, MemoryTag::kOther)};
}

Moe Moe::Declare(Context& c, ParameterStore& store, const std::string& prefix,
                 const ModelConfig& model, bool recompute, RouterState& state) {
  Moe moe;
  moe.config = model.moe;
  moe.recompute = recompute;
  moe.state = &state;
  moe.exchange = std::make_shared<ExpertExchange>(*c.mesh.expert, c.kernels, model.moe.experts);
  moe.router =
      Linear::Declare(store, prefix + ".router", model.moe.experts, model.hidden, model.init_std);
  const ExpertParameters experts = DeclareExperts(
      store, prefix, moe.exchange->local(), model.hidden, model.moe.expert_width, model.init_std);
  moe.gate_up = experts.gate_up;
  moe.down = experts.down;
  if (model.moe.shared_hidden() > 0) {
    moe.shared = Mlp::Declare(store, prefix + ".shared", model.hidden, model.moe.shared_hidden(),
                              model.init_std);
  }
  return moe;
}

RouteOptions Moe::Options() const {
  RouteOptions options;
  options.top_k = config.top_k;
  options.softmax = config.score == "softmax";
  options.normalize = config.normalize;
  options.scale = config.route_scale;
  options.groups = config.groups;
  options.groups_kept = config.groups_kept;
  return options;
}

void Moe::ForwardRoute(Context& c, const Pass& pass, Saved& note, bool training) const {
  const int64_t tokens = note.x.dim(0);
  const Tensor logits = ProjectAccurate(c, note.x, router.weight->value);
  note.scores = c.EmptyAccurate({tokens, config.experts});
  note.experts = Tensor::Empty(c.stream, DType::kI32, {tokens, config.top_k});
  note.weights = c.EmptyAccurate({tokens, config.top_k});
  Tensor load = training ? state->load : Tensor::Zeros(c.stream, DType::kI64, {config.experts});
  c.kernels.route(c.stream, Options(), logits, state->bias, note.scores, note.experts, note.weights,
                  load);
  if (!training || config.sequence_balance == 0.0) return;
  note.balance = c.EmptyAccurate({pass.batch.rows, config.experts});
  Tensor sum = pass.balance_sum;
  c.kernels.balance_loss(c.stream, Options(), pass.batch.length, note.scores, note.experts,
                         pass.balance_scale, note.balance, sum);
}

std::vector<ExpertPiece> Moe::Pieces(Context& c, const RoutedTokens& routed, int64_t tokens) const {
  const auto equal_share = static_cast<double>(tokens * config.top_k);
  return PiecesOf(routed, static_cast<int64_t>(c.mesh.layout.expert_room * equal_share));
}

// y: of the piece.
void Moe::ForwardPiece(Context& c, const RoutedTokens& routed, const ExpertPiece& piece,
                       const Tensor& addend, Tensor& y, ExpertsSaved& local) const {
  const auto [begin, end] = piece.rows;
  local.most_pairs = piece.pairs;
  c.kernels.experts(c.stream, routed.x.Rows(begin, end), routed.experts.Rows(begin, end),
                    routed.weights.Rows(begin, end), gate_up->value, down->value, addend, y, local);
}

void Moe::ForwardPieceAgain(Context& c, const RoutedTokens& routed, const ExpertPiece& piece,
                            ExpertsSaved& local) const {
  Tensor y = c.Empty({piece.rows.size(), routed.x.dim(1)});
  ForwardPiece(c, routed, piece, {}, y, local);
}

Tensor Moe::ForwardExperts(Context& c, const RoutedTokens& routed, const Tensor& addend,
                           int64_t tokens, ExpertsSaved& local) const {
  Tensor y = c.Empty(routed.x.shape());
  const std::vector<ExpertPiece> pieces = Pieces(c, routed, tokens);
  if (pieces.size() == 1) {
    ForwardPiece(c, routed, pieces[0], addend, y, local);
    return y;
  }
  CHECK(!addend.defined());
  for (const ExpertPiece& piece : pieces) {
    ExpertsSaved dropped;
    Tensor part = y.Rows(piece.rows.begin, piece.rows.end);
    ForwardPiece(c, routed, piece, {}, part, dropped);
  }
  return y;
}

ExpertExchange::SourceGrad Moe::BackwardExperts(Context& c, Saved& saved,
                                                Pending<Tensor> returning) const {
  const RoutedTokens& routed = saved.routed;
  const std::vector<ExpertPiece> pieces = Pieces(c, routed, saved.x.dim(0));
  // The first piece is computed again while dy is away.
  ExpertsSaved local = std::exchange(saved.local, {});
  if (!local.gate_up.defined()) ForwardPieceAgain(c, routed, pieces[0], local);
  const Tensor dy = c.In(Part::kExchange, [&] { return returning.Wait(c.stream); });
  ExpertExchange::SourceGrad grad;
  grad.dx = c.Empty(routed.x.shape());
  grad.dweights = c.EmptyAccurate(routed.weights.shape());
  for (const ExpertPiece& piece : pieces) {
    const auto [begin, end] = piece.rows;
    if (begin > 0) {
      local = {};
      ForwardPieceAgain(c, routed, piece, local);
    }
    Tensor dx = grad.dx.Rows(begin, end);
    Tensor dweights = grad.dweights.Rows(begin, end);
    c.kernels.experts_grad(c.stream, dy.Rows(begin, end), routed.x.Rows(begin, end),
                           routed.weights.Rows(begin, end), gate_up->value, down->value, local, dx,
                           dweights, gate_up->grad, down->grad);
  }
  return grad;
}

Tensor Moe::Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                    Saved* saved) const {
  Saved note;
  note.x = x;
  ForwardRoute(c, pass, note, saved != nullptr);
  auto leaving = c.In(Part::kExchange,
                      [&] { return exchange->Dispatch(c.stream, x, note.experts, note.weights); });
  if (shared.has_value()) shared->ForwardHidden(c, x, &note.shared);
  const auto beside = [&] {
    return shared.has_value() ? shared->down.Forward(c, note.shared.h, skip) : skip;
  };
  note.routed = c.In(Part::kExchange, [&] { return leaving.Wait(c.stream); });
  const bool added = exchange->AddsHere();
  const Tensor y_here =
      ForwardExperts(c, note.routed, added ? beside() : Tensor(), x.dim(0), note.local);
  auto returning = c.In(Part::kExchange,
                        [&] { return exchange->Combine(c.stream, note.routed, y_here, x.dim(0)); });
  const Tensor base = added ? Tensor() : beside();
  Tensor y = c.In(Part::kExchange, [&] { return returning.Wait(c.stream); });
  if (base.defined()) c.kernels.add(c.stream, base, y);
  if (saved == nullptr) return y;
  // The shared expert's input is x, which whoever holds this note may drop.
  note.shared.x = Tensor();
  if (recompute) {
    note.local.gate_up = Tensor();
    note.shared = {};
  }
  if (sends_again) note.routed.x = Tensor();
  *saved = std::move(note);
  return y;
}

Tensor Moe::Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                     Saved saved) const {
  auto returning =
      c.In(Part::kExchange, [&] { return exchange->CombineGrad(c.stream, saved.routed, dy); });
  Pending<Tensor> coming_again;
  if (sends_again) {
    coming_again =
        c.In(Part::kExchange, [&] { return exchange->SendAgain(c.stream, saved.routed, saved.x); });
  }
  Tensor dshared;
  if (shared.has_value()) {
    if (recompute) shared->ForwardHidden(c, saved.x, &saved.shared);
    dshared = shared->BackwardHidden(c, dy, saved.shared);
    saved.shared = {};
  }
  if (sends_again)
    saved.routed.x = c.In(Part::kExchange, [&] { return coming_again.Wait(c.stream); });
  const auto here = BackwardExperts(c, saved, std::move(returning));
  auto leaving = c.In(Part::kExchange, [&] {
    return exchange->DispatchGrad(c.stream, saved.routed, here.dx, here.dweights, saved.experts);
  });
  if (shared.has_value()) shared->gate_up.AddWeightGradient(c, dshared, saved.x);
  auto source = c.In(Part::kExchange, [&] { return leaving.Wait(c.stream); });
  Tensor dx = std::move(source.dx);
  if (shared.has_value()) shared->gate_up.AddInputGradient(c, dshared, dx);
  BackwardRoute(c, pass, source.dweights, saved, dx);
  if (skip.defined()) c.kernels.add(c.stream, skip, dx);
  return dx;
}

void Moe::BackwardRoute(Context& c, const Pass& pass, const Tensor& dweights, const Saved& saved,
                        Tensor& dx) const {
  Tensor dlogits = c.Empty(saved.scores.shape());
  c.kernels.route_grad(c.stream, Options(), pass.batch.length, saved.scores, saved.experts,
                       saved.weights, dweights, saved.balance, pass.balance_scale, dlogits);
  router.AddBackward(c, dlogits, saved.x, dx);
}

}  // namespace mneme
