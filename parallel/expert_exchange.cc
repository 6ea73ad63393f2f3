#include "parallel/expert_exchange.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "kernels/core/arrival.h"
#include "kernels/core/check.h"
#include "parallel/carry.h"
#include "parallel/parts.h"

namespace mneme {
namespace {

Tensor OneRow(Stream& stream, const Tensor& like) {
  return Tensor::Zeros(stream, like.dtype(), {1, like.dim(1)}, MemoryTag::kExchange);
}

// What an owner has to whom no token came: rows, experts and weights.
void NoRows(Stream& stream, Tensor (&out)[3]) {
  for (Tensor& x : out) x = OneRow(stream, x);
  const std::vector<int32_t> nobody(static_cast<size_t>(out[1].elements()), -1);
  Upload(stream, nobody.data(), out[1].bytes(), out[1]);
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
  Tensor out[3];                  // rows, experts and weights that come
  Arrival counts;                 // i64 [2 members, 2] rows and pairs: for each, from each; behind
                                  // them, where nothing waits for the host, as in Tell
  SideJob job;

  std::array<Tensor, 3> in(int64_t rows) const {
    return {x, experts.Rows(0, rows), weights.Rows(0, rows)};
  }
  // At least `rows` of each, of at least `bytes`.
  void MakeRoom(Stream& side, int64_t rows, int64_t bytes) {
    const Tensor* const like[] = {&x, &experts, &weights};
    for (size_t i = 0; i < 3; ++i) {
      const int64_t row = RowBytes(*like[i]);
      const Shape shape = {std::max(rows, (bytes + row - 1) / row), like[i]->dim(1)};
      out[i] = Tensor();
      out[i] = Tensor::Empty(side, like[i]->dtype(), shape, MemoryTag::kExchange);
    }
  }
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
  DirectExchange* const direct = axis_.direct();
  Tensor counts = room(DType::kI64, {2 * members + (direct == nullptr ? 0 : 1), 2});
  Tensor leaving = counts.Rows(0, members);
  kernels_.deal_tokens(stream, experts, weights, starts_, dealt->sent, dealt->experts,
                       dealt->weights, leaving);
  dealt->job = SideJob::Begin(
      stream, {x, dealt->sent, dealt->experts, dealt->weights, counts}, [&](Stream& side) {
        if (direct == nullptr) {
          Tensor coming = counts.Rows(members, 2 * members);
          const std::vector<int64_t> one_each(static_cast<size_t>(members), 1);
          axis_.AllToAll(side, leaving, one_each, coming, one_each);
          dealt->counts = Arrival(side, counts);
          return;
        }
        dealt->MakeRoom(side, came_ < 0 ? most : RoomFor(x.dim(0)), Comm::kLeastShared);
        direct->Tell(side, leaving, dealt->out, counts);
        dealt->counts = Arrival(side, counts);
        direct->PutTold(side, dealt->in(most), dealt->sent, absl::MakeSpan(dealt->out));
      });
  return Pending<RoutedTokens>::After([this, dealt](Stream&) { return Send(*dealt); });
}

// The rows of dealt tokens to their owners, where they are not there.
RoutedTokens ExpertExchange::Send(Dealt& dealt) {
  RoutedTokens routed;
  DirectExchange* const direct = axis_.direct();
  const std::vector<int64_t> counts = ReadCounts(axis_, dealt.counts, 2, direct == nullptr ? 0 : 2);
  const auto members = static_cast<size_t>(axis_.size());
  for (size_t i = 0; i < 4 * members; i += 2) {
    const bool leaves = i < 2 * members;
    (leaves ? routed.send : routed.recv).push_back(counts[i]);
    if (!leaves) routed.pairs.push_back(counts[i + 1]);
  }
  const bool there = direct != nullptr && counts[4 * members] != 0;
  routed.sent = dealt.sent.Rows(0, Total(routed.send));
  const int64_t coming = Total(routed.recv);
  dealt.job.Finish([&](Stream& side) {
    if (!there) CarryRows(side, dealt, routed);
    if (coming == 0) NoRows(side, dealt.out);
  });
  dealt.job.Join();
  if (there) {
    const int64_t kept = routed.send[static_cast<size_t>(axis_.rank())];
    direct->AddSent((routed.sent.elements() - kept) *
                    (RowBytes(dealt.x) + RowBytes(dealt.experts) + RowBytes(dealt.weights)));
  }
  came_ = coming;
  came_for_ = dealt.x.dim(0);
  const int64_t rows = std::max<int64_t>(coming, 1);
  routed.x = dealt.out[0].Rows(0, rows);
  routed.experts = dealt.out[1].Rows(0, rows);
  routed.weights = dealt.out[2].Rows(0, rows);
  return routed;
}

// Rows: a sixteenth more than last time, where the others have as many more tokens as this rank.
int64_t ExpertExchange::RoomFor(int64_t tokens) const {
  constexpr double kMargin = 17.0 / 16.0;
  constexpr int64_t kSlack = 256;
  const double more = tokens > 0 && came_for_ > 0
                          ? static_cast<double>(tokens) / static_cast<double>(came_for_)
                          : 1.0;
  return static_cast<int64_t>(kMargin * more * static_cast<double>(came_)) + kSlack;
}

void ExpertExchange::CarryRows(Stream& side, Dealt& dealt, const RoutedTokens& routed) {
  dealt.MakeRoom(side, Total(routed.recv), 0);
  GatherToAll(side, dealt.in(routed.sent.elements()), routed.sent, routed.send,
              absl::MakeSpan(dealt.out), routed.recv);
}

void ExpertExchange::GatherToAll(Stream& side, absl::Span<const Tensor> in, const Tensor& index,
                                 absl::Span<const int64_t> send, absl::Span<Tensor> out,
                                 absl::Span<const int64_t> recv) {
  if (DirectExchange* const direct = axis_.direct(); direct != nullptr)
    return direct->GatherToAll(side, in, index, send, out, recv);
  std::vector<Tensor> gathered(in.begin(), in.end());
  gathered[0] =
      Tensor::Empty(side, in[0].dtype(), {index.elements(), in[0].dim(1)}, MemoryTag::kExchange);
  kernels_.gather_rows(side, in[0], index, gathered[0]);
  axis_.AllToAllOf(side, gathered, send, out, recv);
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
    there = Tensor::Empty(side, vectors.dtype(), {Total(routed.recv), vectors.dim(1)},
                          MemoryTag::kExchange);
    GatherToAll(side, {&vectors, 1}, routed.sent, routed.send, {&there, 1}, routed.recv);
    if (there.dim(0) == 0) there = OneRow(side, there);
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
