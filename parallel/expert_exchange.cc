#include "parallel/expert_exchange.h"

#include "kernels/core/check.h"
#include "parallel/carry.h"

namespace mneme {
namespace {

bool HostSees(const Stream& stream) { return stream.device().is_cpu() || stream.device().dry; }

// What the host reads of x: itself, or a copy in `room`, for which it waits.
Tensor OnHost(Stream& stream, const Tensor& x, std::vector<char>& room) {
  if (HostSees(stream)) return x;
  room.resize(static_cast<size_t>(x.bytes()));
  Download(stream, x, room.data(), x.bytes());
  return Tensor::Wrap(room.data(), x.dtype(), x.shape());
}

// Where the host writes what x will hold: itself, or `room`.
Tensor ForHost(const Stream& stream, const Tensor& x, std::vector<char>& room) {
  if (HostSees(stream)) return x;
  room.resize(static_cast<size_t>(x.bytes()));
  return Tensor::Wrap(room.data(), x.dtype(), x.shape());
}

// Rows for an op of the experts: at least one, of zeros where none comes.
Tensor CarryToExperts(Stream& stream, Comm& axis, const Tensor& in,
                      const std::vector<int64_t>& send, const std::vector<int64_t>& recv) {
  Tensor out = Carry(stream, axis, in, send, recv);
  if (out.dim(0) > 0) return out;
  return Tensor::Zeros(stream, in.dtype(), {1, in.dim(1)}, MemoryTag::kExchange);
}

// What goes to each destination: tokens that chose any of its experts, rising.
struct Dealt {
  std::vector<int32_t> tokens;  // grouped by destination
  std::vector<int64_t> counts;  // of each destination
};

Dealt Deal(const Tensor& experts, int64_t total_experts, int destinations) {
  const int64_t tokens = experts.dim(0);
  const int64_t k = experts.dim(1);
  const int32_t* chosen = experts.data<int32_t>();
  std::vector<std::vector<int32_t>> to(static_cast<size_t>(destinations));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < k; ++j) {
      const int owner = OwnerOf(total_experts, destinations, chosen[t * k + j]);
      std::vector<int32_t>& list = to[static_cast<size_t>(owner)];
      if (list.empty() || list.back() != t) list.push_back(static_cast<int32_t>(t));
    }
  }
  Dealt dealt;
  for (const std::vector<int32_t>& list : to) {
    dealt.tokens.insert(dealt.tokens.end(), list.begin(), list.end());
    dealt.counts.push_back(static_cast<int64_t>(list.size()));
  }
  return dealt;
}

// Experts and weights of the rows sent, as each destination sees them: local indices, −1 elsewhere.
template <class T>
void Localise(const Dealt& dealt, const Tensor& experts, const Tensor& weights,
              int64_t total_experts, Tensor& sent_experts, Tensor& sent_weights) {
  const int64_t k = experts.dim(1);
  const int32_t* from = experts.data<int32_t>();
  const T* from_weights = weights.data<T>();
  int32_t* to = sent_experts.data<int32_t>();
  T* to_weights = sent_weights.data<T>();
  const int destinations = static_cast<int>(dealt.counts.size());
  size_t s = 0;
  for (int d = 0; d < destinations; ++d) {
    const Range local = PartOf(total_experts, destinations, d);
    for (int64_t i = 0; i < dealt.counts[static_cast<size_t>(d)]; ++i, ++s) {
      const int64_t row = int64_t{dealt.tokens[s]} * k;
      for (int64_t j = 0; j < k; ++j, ++to, ++to_weights) {
        const int32_t expert = from[row + j];
        const bool here = expert >= local.begin && expert < local.end;
        *to = here ? expert - static_cast<int32_t>(local.begin) : -1;
        *to_weights = here ? from_weights[row + j] : T{0};
      }
    }
  }
}

}  // namespace

ExpertExchange::ExpertExchange(Comm& axis, const Kernels& kernels, int64_t experts)
    : axis_(axis),
      kernels_(kernels),
      experts_(experts),
      local_(PartOf(experts, axis.size(), axis.rank())) {
  CHECK_LE(int64_t{axis.size()}, experts);
}

Pending<RoutedTokens> ExpertExchange::Dispatch(Stream& stream, const Tensor& x,
                                               const Tensor& experts, const Tensor& weights) {
  RoutedTokens routed;
  if (axis_.size() == 1) {
    routed.x = x;
    routed.experts = experts;
    routed.weights = weights;
    routed.send = {x.dim(0)};
    routed.recv = {x.dim(0)};
    return Pending<RoutedTokens>(std::move(routed));
  }
  std::vector<char> rooms[4];
  Tensor chosen, chosen_weights;
  {
    const InFlight waiting = axis_.Waiting(Collective::kAllToAll, experts.bytes());
    chosen = OnHost(stream, experts, rooms[0]);
    chosen_weights = OnHost(stream, weights, rooms[1]);
  }
  const Dealt dealt = Deal(chosen, experts_, axis_.size());
  const auto rows = static_cast<int64_t>(dealt.tokens.size());
  const int64_t k = experts.dim(1);
  routed.send = dealt.counts;
  routed.recv = axis_.ExchangeCounts(routed.send);
  routed.sent = Tensor::Empty(stream, DType::kI32, {rows}, MemoryTag::kExchange);
  if (rows > 0) Upload(stream, dealt.tokens.data(), routed.sent.bytes(), routed.sent);
  Tensor sent_x = Tensor::Empty(stream, x.dtype(), {rows, x.dim(1)}, MemoryTag::kExchange);
  kernels_.gather_rows(stream, x, routed.sent, sent_x);
  Tensor sent_experts = Tensor::Empty(stream, DType::kI32, {rows, k}, MemoryTag::kExchange);
  Tensor sent_weights = Tensor::Empty(stream, weights.dtype(), {rows, k}, MemoryTag::kExchange);
  Tensor local_experts = ForHost(stream, sent_experts, rooms[2]);
  Tensor local_weights = ForHost(stream, sent_weights, rooms[3]);
  DispatchReal(weights.dtype(), [&](auto zero) {
    Localise<decltype(zero)>(dealt, chosen, chosen_weights, experts_, local_experts, local_weights);
  });
  if (!HostSees(stream)) {
    Upload(stream, local_experts.raw(), local_experts.bytes(), sent_experts);
    Upload(stream, local_weights.raw(), local_weights.bytes(), sent_weights);
  }
  routed.x = CarryToExperts(stream, axis_, sent_x, routed.send, routed.recv);
  routed.experts = CarryToExperts(stream, axis_, sent_experts, routed.send, routed.recv);
  routed.weights = CarryToExperts(stream, axis_, sent_weights, routed.send, routed.recv);
  if (Total(routed.recv) == 0) {
    const std::vector<int32_t> nobody(static_cast<size_t>(k), -1);
    Upload(stream, nobody.data(), routed.experts.bytes(), routed.experts);
  }
  return Pending<RoutedTokens>(std::move(routed));
}

Tensor ExpertExchange::BackToSources(Stream& stream, const RoutedTokens& routed, const Tensor& rows,
                                     const Tensor& addend, int64_t tokens) {
  const Tensor back = Carry(stream, axis_, rows, routed.recv, routed.send);
  Tensor out = Tensor::Zeros(stream, Accurate(rows.dtype()), {tokens, rows.dim(1)});
  kernels_.scatter_add_rows(stream, back, routed.sent, out);
  if (out.dtype() != rows.dtype()) {
    const Tensor sum = out;
    out = Tensor::Empty(stream, rows.dtype(), sum.shape());
    kernels_.cast(stream, sum, out);
  }
  if (addend.defined()) kernels_.add(stream, addend, out);
  return out;
}

Pending<Tensor> ExpertExchange::Combine(Stream& stream, const RoutedTokens& routed, const Tensor& y,
                                        const Tensor& addend, int64_t tokens) {
  if (axis_.size() == 1) return Pending<Tensor>(y);
  return Pending<Tensor>(BackToSources(stream, routed, y, addend, tokens));
}

Pending<Tensor> ExpertExchange::CombineGrad(Stream& stream, const RoutedTokens& routed,
                                            const Tensor& dy) {
  if (axis_.size() == 1) return Pending<Tensor>(dy);
  Tensor sent =
      Tensor::Empty(stream, dy.dtype(), {routed.sent.elements(), dy.dim(1)}, MemoryTag::kExchange);
  kernels_.gather_rows(stream, dy, routed.sent, sent);
  return Pending<Tensor>(CarryToExperts(stream, axis_, sent, routed.send, routed.recv));
}

Pending<ExpertExchange::SourceGrad> ExpertExchange::DispatchGrad(Stream& stream,
                                                                 const RoutedTokens& routed,
                                                                 const Tensor& dx,
                                                                 const Tensor& dweights,
                                                                 const Tensor& experts) {
  if (axis_.size() == 1) return Pending<SourceGrad>({dx, dweights});
  // A weight's gradient comes from the one owner of its expert; the others send zeros.
  const int64_t tokens = experts.dim(0);
  SourceGrad grad;
  grad.dx = BackToSources(stream, routed, dx, {}, tokens);
  grad.dweights = BackToSources(stream, routed, dweights, {}, tokens);
  return Pending<SourceGrad>(std::move(grad));
}

}  // namespace mneme
