// Grouped matrix products, as the ops of experts and of matmul.h use them.
#pragma once

#include <initializer_list>

#include "kernels/ops/matmul.h"

namespace mneme::gpu {

// Says that an operand's rows are not stored one after another: row p is row slots[p] / per_row of
// the tensor. None by default.
struct Gather {
  const Tensor* slots = nullptr;  // i32 [R]
  int64_t per_row = 1;
};

inline constexpr int64_t kInnerColumns = 256;
// At most so many experts of at most this width go up and down in one kernel.
inline constexpr int64_t kFeedForwardGroups = 480, kFeedForwardWidth = 256;

// Whether the products below can gather: for these weights [E, m, n] and rows of these tensors.
// Elsewhere rows are to be spread first.
bool GroupedGathers(Stream& stream, std::initializer_list<const Tensor*> weights,
                    std::initializer_list<const Tensor*> rows);

// GroupedMatmulWeightGrad of gathered rows of a or of b, not both. turns: where parts of dw wait
// for each other's turns to be added, i32 [GroupedTurns(dw)], zeros before each call; not defined:
// dw is not added in parts, and crowded groups take long. REQUIRES: GroupedGathers where either
// gathers.
void GroupedWeightGrad(Stream& stream, const Tensor& a, Gather of_a, const Tensor& b, Gather of_b,
                       const Tensor& offsets, Tensor& turns, Tensor& dw);
int64_t GroupedTurns(const Tensor& dw);

// gate_up rows = a rows · w[e]ᵀ, act rows = SiLU(left half) · right half. w [E, 2n, k],
// gate_up [R, 2n], act [R, n]. Rows beyond offsets[E] are left alone. REQUIRES: likewise.
void GroupedSwiGlu(Stream& stream, const Tensor& a, Gather of_a, const Tensor& w,
                   const Tensor& offsets, Tensor& gate_up, Tensor& act);

// The same and then down: out rows = act rows · w_down[e]ᵀ, act kept inside. REQUIRES:
// GroupedGathers; at most kFeedForwardGroups groups, n at most kFeedForwardWidth.
void GroupedFeedForward(Stream& stream, const Tensor& a, Gather of_a, const Tensor& w_gate_up,
                        const Tensor& w_down, const Tensor& offsets, Tensor& gate_up, Tensor& out);

// What leads from dy back to the gate and up projections, in one pass. With z = dy rows · w[e], w
// [E, k, n], h = SwiGLU(gate_up) and c the weight of a row's slot: d_gate_up as the gradient of h
// is c z, act = c h, and inner [⌈n / kInnerColumns⌉, R] f32: ⟨z, h⟩ over that many columns each.
// REQUIRES: GroupedGathers.
void GroupedDownGrad(Stream& stream, const Tensor& dy, Gather of_dy, const Tensor& w,
                     const Tensor& offsets, const Tensor& gate_up, const Tensor& weights,
                     Tensor& d_gate_up, Tensor& act, Tensor& inner);

}  // namespace mneme::gpu
