// Tokens to the ranks of their experts and back.
//
// The unit that travels is (token, destination rank): a token goes once to each rank that owns any
// of its experts, with its weights; the experts' op sums there, and one row comes back. Sources add
// the rows of their destinations in rank order. With an axis of size 1 everything is a view and
// nothing is copied.
//
// Tokens are dealt where they are (kernels/ops/deal.h). The host need know one thing: how many rows
// go where. With a larger axis those counts set out for it in Dispatch, and Wait waits for them.
//
// Where members write into each other's memory (Comm::direct) nothing waits for the host: rows go
// straight from the tokens to their owners as soon as the devices know the counts, and Wait only
// learns them. An owner makes room for a few more rows than came last time; where some
// owner's does not do, or does not lie in what is shared, nothing went, and all ranks send when
// their hosts know.
//
// All that travels does so beside the stream (kernels/core/side.h): what a layer queues between a
// call and its Wait is computed meanwhile. It should be short between Dispatch and Wait.
#pragma once

#include "kernels/kernels.h"
#include "parallel/comm.h"
#include "parallel/layout.h"

namespace mneme {

// Tokens as the owner of experts sees them.
struct RoutedTokens {
  Tensor x;        // [R, D]; R >= 1: one row for no expert where no token came
  Tensor experts;  // i32 [R, K] local index or −1
  Tensor weights;  // [R, K]
  // The route back.
  Tensor sent;                      // i32 [S] token of each row sent, by destination
  std::vector<int64_t> send, recv;  // rows to and from each member
  std::vector<int64_t> pairs;       // (row, expert) that are not −1, from each
};

// Rows of routed tokens that are computed at once.
struct ExpertPiece {
  Range rows;
  int64_t pairs = 0;
};
// All of them; or, where they have more than `most` pairs, neighbouring members' rows together as
// far as these have no more, at least those of one member.
std::vector<ExpertPiece> PiecesOf(const RoutedTokens& routed, int64_t most);

class ExpertExchange {
 public:
  ExpertExchange(Comm& axis, const Kernels& kernels, int64_t experts);

  // Experts of this rank.
  Range local() const { return local_; }

  // x [T, D], experts i32 [T, K] global, weights [T, K].
  Pending<RoutedTokens> Dispatch(Stream& stream, const Tensor& x, const Tensor& experts,
                                 const Tensor& weights);
  // Whether what is added to the experts' sum is added by them, to their y: where nobody else has
  // experts. Else it is added to what Combine brings.
  bool AddsHere() const { return axis_.size() == 1; }
  // y [R, D] of the owners back to [T, D] at the sources.
  Pending<Tensor> Combine(Stream& stream, const RoutedTokens& routed, const Tensor& y,
                          int64_t tokens);
  // x [T, D] of the tokens once more, along the routes of `routed`: its x [R, D].
  Pending<Tensor> SendAgain(Stream& stream, const RoutedTokens& routed, const Tensor& x) {
    return ToExperts(stream, routed, x);
  }
  // Gradients: dy [T, D] -> [R, D]; then dx [R, D], dweights [R, K] -> dx [T, D], dweights [T, K].
  Pending<Tensor> CombineGrad(Stream& stream, const RoutedTokens& routed, const Tensor& dy) {
    return ToExperts(stream, routed, dy);
  }
  struct SourceGrad {
    Tensor dx;        // [T, D]
    Tensor dweights;  // [T, K]
  };
  Pending<SourceGrad> DispatchGrad(Stream& stream, const RoutedTokens& routed, const Tensor& dx,
                                   const Tensor& dweights, const Tensor& experts);

 private:
  // Vectors of tokens [T, D] to the owners of their experts [R, D].
  Pending<Tensor> ToExperts(Stream& stream, const RoutedTokens& routed, const Tensor& vectors);
  struct Dealt;
  RoutedTokens Send(Dealt& dealt);
  // What an owner makes room for before it knows what comes.
  int64_t RoomFor(int64_t tokens) const;
  void CarryRows(Stream& side, Dealt& dealt, const RoutedTokens& routed);
  // Comm::AllToAllOf, row i of in[0] being in[0][index[i]].
  void GatherToAll(Stream& side, absl::Span<const Tensor> in, const Tensor& index,
                   absl::Span<const int64_t> send, absl::Span<Tensor> out,
                   absl::Span<const int64_t> recv);
  // back [S, D] of owners -> [tokens, D]: those of one token added in rank order. sent: as in
  // RoutedTokens.
  Tensor AddUp(Stream& stream, const Tensor& sent, const Tensor& back, int64_t tokens);

  Comm& axis_;
  const Kernels& kernels_;
  std::vector<int64_t> starts_;  // of the experts of each member, and where the last end
  Range local_;
  int64_t came_ = -1;     // rows, last time; none yet
  int64_t came_for_ = 0;  // tokens of this rank then
};

}  // namespace mneme
