#include "parallel/expert_exchange.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/core/arrival.h"
#include "kernels/core/check.h"
#include "parallel/carry.h"

namespace mneme {
namespace {

Tensor OneRow(Stream& stream, const Tensor& like) {
  return Tensor::Zeros(stream, like.dtype(), {1, like.dim(1)}, MemoryTag::kExchange);
}

// Rows for an op of the experts: at least one, of zeros where none comes.
Tensor CarryToExperts(Stream& stream, Comm& axis, const Tensor& in,
                      const std::vector<int64_t>& send, const std::vector<int64_t>& recv) {
  Tensor out = Carry(stream, axis, in, send, recv);
  return out.dim(0) > 0 ? out : OneRow(stream, out);
}

// Where the experts of each member begin, and where the last end.
std::vector<int64_t> StartsOf(int64_t experts, int members) {
  std::vector<int64_t> starts;
  for (int r = 0; r < members; ++r) starts.push_back(PartOf(experts, members, r).begin);
  starts.push_back(experts);
  return starts;
}

}  // namespace

std::vector<ExpertPiece> PiecesOf(const RoutedTokens& routed, int64_t most) {
  std::vector<ExpertPiece> pieces;
  const int64_t all = Total(routed.pairs);
  if (all <= most) return {{{0, routed.x.dim(0)}, all}};
  int64_t row = 0;
  for (size_t r = 0; r < routed.recv.size(); ++r) {
    if (routed.recv[r] == 0) continue;
    if (pieces.empty() || pieces.back().pairs + routed.pairs[r] > most)
      pieces.push_back({{row, row}, 0});
    row += routed.recv[r];
    pieces.back().rows.end = row;
    pieces.back().pairs += routed.pairs[r];
  }
  return pieces;
}

ExpertExchange::ExpertExchange(Comm& axis, const Kernels& kernels, int64_t experts)
    : axis_(axis),
      kernels_(kernels),
      starts_(StartsOf(experts, axis.size())),
      local_(PartOf(experts, axis.size(), axis.rank())) {
  CHECK_LE(int64_t{axis.size()}, experts);
}

// Dealt tokens while their counts are on the way to the host.
struct ExpertExchange::Dealt {
  Tensor x;                       // of all tokens
  Tensor sent, experts, weights;  // as deal_tokens leaves them
  Arrival counts;                 // i64 [2 members, 2] rows and pairs: for each, from each
  SideJob job;
};

Pending<RoutedTokens> ExpertExchange::Dispatch(Stream& stream, const Tensor& x,
                                               const Tensor& experts, const Tensor& weights) {
  if (axis_.size() == 1) {
    RoutedTokens routed;
    routed.x = x;
    routed.experts = experts;
    routed.weights = weights;
    routed.send = {x.dim(0)};
    routed.recv = {x.dim(0)};
    routed.pairs = {experts.elements()};
    return Pending<RoutedTokens>(std::move(routed));
  }
  const int64_t members = axis_.size();
  const int64_t k = experts.dim(1);
  const int64_t most = x.dim(0) * std::min(k, members);
  const auto room = [&](DType dtype, Shape shape) {
    return Tensor::Empty(stream, dtype, shape, MemoryTag::kExchange);
  };
  auto dealt = std::make_shared<Dealt>();
  dealt->x = x;
  dealt->sent = room(DType::kI32, {most});
  dealt->experts = room(DType::kI32, {most, k});
  dealt->weights = room(weights.dtype(), {most, k});
  Tensor counts = room(DType::kI64, {2 * members, 2});
  Tensor leaving = counts.Rows(0, members);
  Tensor coming = counts.Rows(members, 2 * members);
  kernels_.deal_tokens(stream, experts, weights, starts_, dealt->sent, dealt->experts,
                       dealt->weights, leaving);
  const std::vector<int64_t> one_each(static_cast<size_t>(members), 1);
  dealt->job = SideJob::Begin(stream, {x, dealt->sent, dealt->experts, dealt->weights, counts},
                              [&](Stream& side) {
                                axis_.AllToAll(side, leaving, one_each, coming, one_each);
                                dealt->counts = Arrival(side, counts);
                              });
  return Pending<RoutedTokens>::After([this, dealt](Stream&) { return Send(*dealt); });
}

// The rows of dealt tokens to their owners.
RoutedTokens ExpertExchange::Send(Dealt& dealt) {
  RoutedTokens routed;
  const std::vector<int64_t> counts = ReadCounts(axis_, dealt.counts, 2);
  for (size_t i = 0; i < counts.size(); i += 2) {
    const bool leaves = i < counts.size() / 2;
    (leaves ? routed.send : routed.recv).push_back(counts[i]);
    if (!leaves) routed.pairs.push_back(counts[i + 1]);
  }
  routed.sent = dealt.sent.Rows(0, Total(routed.send));
  dealt.job.Finish([&](Stream& side) { CarryRows(side, dealt, routed); });
  dealt.job.Join();
  return routed;
}

void ExpertExchange::CarryRows(Stream& side, const Dealt& dealt, RoutedTokens& routed) {
  const int64_t leaving = Total(routed.send);
  const int64_t coming = Total(routed.recv);
  const auto room = [&](const Tensor& like, int64_t rows) {
    return Tensor::Empty(side, like.dtype(), {rows, like.dim(1)}, MemoryTag::kExchange);
  };
  Tensor rows = room(dealt.x, leaving);
  kernels_.gather_rows(side, dealt.x, routed.sent, rows);
  const Tensor in[] = {rows, dealt.experts.Rows(0, leaving), dealt.weights.Rows(0, leaving)};
  Tensor out[] = {room(dealt.x, coming), room(dealt.experts, coming), room(dealt.weights, coming)};
  axis_.AllToAllOf(side, in, routed.send, out, routed.recv);
  if (coming == 0) {
    for (Tensor& x : out) x = OneRow(side, x);
    const std::vector<int32_t> nobody(static_cast<size_t>(out[1].elements()), -1);
    Upload(side, nobody.data(), out[1].bytes(), out[1]);
  }
  routed.x = out[0];
  routed.experts = out[1];
  routed.weights = out[2];
}

// back [S, D] from the owners, in the order in which tokens were sent there.
Tensor ExpertExchange::AddUp(Stream& stream, const Tensor& sent, const Tensor& back,
                             int64_t tokens) {
  Tensor out = Tensor::Zeros(stream, Accurate(back.dtype()), {tokens, back.dim(1)});
  kernels_.scatter_add_rows(stream, back, sent, out);
  if (out.dtype() != back.dtype()) {
    const Tensor sum = out;
    out = Tensor::Empty(stream, back.dtype(), sum.shape());
    kernels_.cast(stream, sum, out);
  }
  return out;
}

Pending<Tensor> ExpertExchange::Combine(Stream& stream, const RoutedTokens& routed, const Tensor& y,
                                        int64_t tokens) {
  if (axis_.size() == 1) return Pending<Tensor>(y);
  Tensor back;
  auto job = std::make_shared<SideJob>(SideJob::Run(
      stream, {y}, [&](Stream& side) { back = Carry(side, axis_, y, routed.recv, routed.send); }));
  return Pending<Tensor>::After([this, job, back, sent = routed.sent, tokens](Stream& later) {
    job->Join();
    return AddUp(later, sent, back, tokens);
  });
}

Pending<Tensor> ExpertExchange::ToExperts(Stream& stream, const RoutedTokens& routed,
                                          const Tensor& vectors) {
  if (axis_.size() == 1) return Pending<Tensor>(vectors);
  Tensor there;
  SideJob job = SideJob::Run(stream, {vectors, routed.sent}, [&](Stream& side) {
    Tensor rows = Tensor::Empty(side, vectors.dtype(), {routed.sent.elements(), vectors.dim(1)},
                                MemoryTag::kExchange);
    kernels_.gather_rows(side, vectors, routed.sent, rows);
    there = CarryToExperts(side, axis_, rows, routed.send, routed.recv);
  });
  return Pending<Tensor>(std::move(job), there);
}

Pending<ExpertExchange::SourceGrad> ExpertExchange::DispatchGrad(Stream& stream,
                                                                 const RoutedTokens& routed,
                                                                 const Tensor& dx,
                                                                 const Tensor& dweights,
                                                                 const Tensor& experts) {
  if (axis_.size() == 1) return Pending<SourceGrad>({dx, dweights});
  // A weight's gradient comes from the one owner of its expert; the others send zeros.
  const int64_t rows = Total(routed.recv);
  SourceGrad back;
  auto job = std::make_shared<SideJob>(SideJob::Run(stream, {dx, dweights}, [&](Stream& side) {
    const auto room = [&](const Tensor& like) {
      return Tensor::Empty(side, like.dtype(), {Total(routed.send), like.dim(1)},
                           MemoryTag::kExchange);
    };
    const Tensor in[] = {dx.Rows(0, rows), dweights.Rows(0, rows)};
    Tensor out[] = {room(dx), room(dweights)};
    axis_.AllToAllOf(side, in, routed.recv, out, routed.send);
    back = {out[0], out[1]};
  }));
  return Pending<SourceGrad>::After(
      [this, job, back, sent = routed.sent, tokens = experts.dim(0)](Stream& later) {
        job->Join();
        return SourceGrad{AddUp(later, sent, back.dx, tokens),
                          AddUp(later, sent, back.dweights, tokens)};
      });
}

}  // namespace mneme
