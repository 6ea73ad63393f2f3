// The routed experts of one rank, composed of other ops. With p a (token, expert) pair, g its
// pre-activations, a = SwiGLU(g) and c its weight: y_t = Σ_p c_p W_down a_p. Backward keeps no
// expert output: with z = W_downᵀ dy, dweight_p = ⟨z_p, a_p⟩ and da_p = c_p z_p.
#include "kernels/ops/experts.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/fast.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/matmul.h"

namespace mneme::cpu {
namespace {

// Counting sort of the local pairs by expert; pairs of one expert stay in rising order of (token,
// k).
void MakePlan(Stream& stream, const Tensor& experts, int64_t count, ExpertsSaved& saved) {
  const int64_t slots = experts.elements();
  const auto* id = experts.data<int32_t>();
  saved.offsets = Tensor::Zeros(stream, DType::kI64, {count + 1});
  auto* offsets = saved.offsets.data<int64_t>();
  for (int64_t i = 0; i < slots; ++i) {
    CHECK_LT(id[i], count);
    if (id[i] >= 0) ++offsets[id[i] + 1];
  }
  for (int64_t e = 0; e < count; ++e) offsets[e + 1] += offsets[e];
  if (saved.most_pairs >= 0) CHECK_LE(offsets[count], saved.most_pairs);
  saved.order = Tensor::Empty(stream, DType::kI32, {offsets[count]});
  saved.place = Tensor::Empty(stream, DType::kI32, experts.shape());
  auto *order = saved.order.data<int32_t>(), *place = saved.place.data<int32_t>();
  std::vector<int64_t> next(offsets, offsets + count);
  for (int64_t i = 0; i < slots; ++i) {
    place[i] = -1;
    if (id[i] < 0) continue;
    const int64_t pair = next[static_cast<size_t>(id[i])]++;
    order[pair] = static_cast<int32_t>(i);
    place[i] = static_cast<int32_t>(pair);
  }
}

// out[p] = x[token of p]. x [R, D]; out [pairs, D].
template <class T>
void GatherPairs(const Tensor& x, const Tensor& order, int64_t top_k, Tensor& out) {
  const int64_t pairs = order.elements(), width = x.dim(1);
  const auto* from = order.data<int32_t>();
  const T* source = x.data<T>();
  T* to = out.data<T>();
  ForRows(pairs, width,
          [&](int64_t p) { std::copy_n(source + from[p] / top_k * width, width, to + p * width); });
}

// y[r] = Σ_k weight[r, k] · values[place[r, k]] in order of k; weights may be null: all 1.
template <class T>
void CombinePairs(const Tensor& values, const T* weights, const Tensor& place, Tensor& y) {
  const int64_t rows = y.dim(0), width = y.dim(1), top_k = place.dim(1);
  const auto* pair = place.data<int32_t>();
  const T* v = values.data<T>();
  T* out = y.data<T>();
  ForRows(rows, width, [&](int64_t r) {
    T* row = out + r * width;
    std::fill_n(row, width, T(0));
    for (int64_t k = 0; k < top_k; ++k) {
      const int64_t i = r * top_k + k;
      if (pair[i] < 0) continue;
      const T weight = weights ? weights[i] : T(1);
      const T* value = v + pair[i] * width;
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) row[d] += weight * value[d];
    }
  });
}

// dweights from z and a; then z becomes da = c z, and a becomes c a, which the gradient of W_down
// needs.
template <class T>
void WeighPairs(const T* weights, const Tensor& place, Tensor& z, Tensor& act, Tensor& dweights) {
  const int64_t slots = place.elements(), width = z.dim(1);
  const auto* pair = place.data<int32_t>();
  T *zs = z.data<T>(), *as = act.data<T>(), *dw = dweights.data<T>();
  ForRows(slots, width, [&](int64_t i) {
    dw[i] = T(0);
    if (pair[i] < 0) return;
    T *zp = zs + pair[i] * width, *ap = as + pair[i] * width;
    dw[i] = Dot(zp, ap, width);
    const T weight = weights[i];
#pragma omp simd
    for (int64_t f = 0; f < width; ++f) {
      zp[f] *= weight;
      ap[f] *= weight;
    }
  });
}

}  // namespace

void Experts(Stream& stream, const Tensor& x, const Tensor& experts, const Tensor& weights,
             const Tensor& w_gate_up, const Tensor& w_down, const Tensor& addend, Tensor& y,
             ExpertsSaved& saved) {
  const int64_t count = w_gate_up.dim(0), width = w_down.dim(2), hidden = x.dim(1);
  CHECK_EQ(w_gate_up.shape(), (Shape{count, 2 * width, hidden}));
  CHECK_EQ(w_down.shape(), (Shape{count, hidden, width}));
  CHECK_EQ(weights.shape(), experts.shape());
  MakePlan(stream, experts, count, saved);
  const int64_t pairs = saved.order.elements();
  saved.gate_up = Tensor::Empty(stream, x.dtype(), {pairs, 2 * width});
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Tensor act = Tensor::Empty(stream, x.dtype(), {pairs, width});
    Tensor rows = Tensor::Empty(stream, x.dtype(), {pairs, hidden});
    GatherPairs<T>(x, saved.order, experts.dim(1), rows);
    GroupedMatmul(stream, rows, w_gate_up, Trans::kYes, saved.offsets, saved.gate_up);
    SwiGluFast(stream, saved.gate_up, act);
    GroupedMatmul(stream, act, w_down, Trans::kYes, saved.offsets, rows);
    CombinePairs<T>(rows, weights.data<T>(), saved.place, y);
  });
  if (addend.defined()) Add(stream, addend, y);
}

void ExpertsGrad(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weights,
                 const Tensor& w_gate_up, const Tensor& w_down, const ExpertsSaved& saved,
                 Tensor& dx, Tensor& dweights, Tensor& d_w_gate_up, Tensor& d_w_down) {
  const int64_t width = w_down.dim(2), hidden = x.dim(1), top_k = weights.dim(1);
  const int64_t pairs = saved.order.elements();
  const Tensor& offsets = saved.offsets;
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Tensor rows = Tensor::Empty(stream, x.dtype(), {pairs, hidden});
    Tensor act = Tensor::Empty(stream, x.dtype(), {pairs, width});
    Tensor d_act = Tensor::Empty(stream, x.dtype(), {pairs, width});
    GatherPairs<T>(dy, saved.order, top_k, rows);
    GroupedMatmul(stream, rows, w_down, Trans::kNo, offsets, d_act);
    SwiGluFast(stream, saved.gate_up, act);
    WeighPairs<T>(weights.data<T>(), saved.place, d_act, act, dweights);
    GroupedMatmulWeightGrad(stream, rows, act, offsets, d_w_down);

    Tensor d_gate_up = Tensor::Empty(stream, x.dtype(), {pairs, 2 * width});
    SwiGluGradFast(stream, d_act, saved.gate_up, d_gate_up);
    GatherPairs<T>(x, saved.order, top_k, rows);
    GroupedMatmulWeightGrad(stream, d_gate_up, rows, offsets, d_w_gate_up);
    GroupedMatmul(stream, d_gate_up, w_gate_up, Trans::kNo, offsets, rows);
    CombinePairs<T>(rows, static_cast<const T*>(nullptr), saved.place, dx);
  });
}

}  // namespace mneme::cpu
