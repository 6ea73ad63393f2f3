// The routed experts of one rank as one op: gather tokens by expert, SwiGLU feed-forward, weighted
// sum back per token. Keeps the plan and the pre-activations only (x is the caller's); the CPU
// composes plain ops.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// What forward leaves for the gradient.
struct ExpertsSaved {
  // Set by the caller before forward, where it knows: (token, expert) pairs that are local, or
  // more. A device whose host does not count them takes room for so many; −1: for R · K.
  int64_t most_pairs = -1;
  Tensor offsets;  // i64 [E + 1] pairs of each expert, in expert order, tokens rising inside one
  Tensor order;    // i32 [capacity] pair -> token · K + k; capacity: that room, at least 1
  Tensor place;    // i32 [R, K] token, k -> pair, or −1 where the expert lives elsewhere
  Tensor gate_up;  // [capacity, 2F] pre-activations
};

// x [R, D]; experts i32 [R, K], local index or −1 (a row of only −1 gives zeros: unused capacity);
// weights [R, K]; w_gate_up [E, 2F, D] (gate, then up), w_down [E, D, F]. y [R, D] = addend + Σ_k
// weights · down(SiLU(gate x) · up x); an undefined addend adds nothing.
using ExpertsFn = void(Stream&, const Tensor& x, const Tensor& experts, const Tensor& weights,
                       const Tensor& w_gate_up, const Tensor& w_down, const Tensor& addend,
                       Tensor& y, ExpertsSaved& saved);

// dx [R, D], dweights [R, K] assigned (0 where −1); d_gate_up_w, d_down_w +=.
using ExpertsGradFn = void(Stream&, const Tensor& dy, const Tensor& x, const Tensor& weights,
                           const Tensor& w_gate_up, const Tensor& w_down, const ExpertsSaved& saved,
                           Tensor& dx, Tensor& dweights, Tensor& d_w_gate_up, Tensor& d_w_down);

namespace cpu {
ExpertsFn Experts;
ExpertsGradFn ExpertsGrad;
}  // namespace cpu
namespace gpu {
ExpertsFn Experts;
ExpertsGradFn ExpertsGrad;
}  // namespace gpu

}  // namespace mneme
