// Tokens to the ranks of their experts and back.
//
// The unit that travels is (token, destination rank): a token goes once to each rank that owns any
// of its experts, with its weights; the experts' op sums there, and one row comes back. Sources add
// the rows of their destinations in rank order. With an axis of size 1 everything is a view and
// nothing is copied.
//
// Who gets which token is dealt on the host: with a larger axis Dispatch waits for a GPU to have
// chosen the experts, and the ranks exchange counts.
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
  Tensor sent;                      // i32 [S] token of each row sent, grouped by destination
  std::vector<int64_t> send, recv;  // rows to and from each member
};

class ExpertExchange {
 public:
  ExpertExchange(Comm& axis, const Kernels& kernels, int64_t experts);

  // Experts of this rank.
  Range local() const { return local_; }

  // x [T, D], experts i32 [T, K] global, weights [T, K].
  Pending<RoutedTokens> Dispatch(Stream& stream, const Tensor& x, const Tensor& experts,
                                 const Tensor& weights);
  // The part of Combine's addend that the experts of this rank add to their y: all of it where
  // nobody else has experts, else none.
  Tensor AddedHere(const Tensor& addend) const { return axis_.size() == 1 ? addend : Tensor(); }
  // y [R, D] of the owners back to [T, D] at the sources, + addend [T, D] where it is defined.
  Pending<Tensor> Combine(Stream& stream, const RoutedTokens& routed, const Tensor& y,
                          const Tensor& addend, int64_t tokens);
  // Gradients: dy [T, D] -> [R, D]; then dx [R, D], dweights [R, K] -> dx [T, D], dweights [T, K].
  Pending<Tensor> CombineGrad(Stream& stream, const RoutedTokens& routed, const Tensor& dy);
  struct SourceGrad {
    Tensor dx;        // [T, D]
    Tensor dweights;  // [T, K]
  };
  Pending<SourceGrad> DispatchGrad(Stream& stream, const RoutedTokens& routed, const Tensor& dx,
                                   const Tensor& dweights, const Tensor& experts);

 private:
  // rows [R, D] of owners -> [tokens, D]: those of one token added in rank order, then the addend.
  Tensor BackToSources(Stream& stream, const RoutedTokens& routed, const Tensor& rows,
                       const Tensor& addend, int64_t tokens);

  Comm& axis_;
  const Kernels& kernels_;
  int64_t experts_;
  Range local_;
};

}  // namespace mneme
