// Routing (docs/mathematics.md). With s the scores, S the chosen experts, Z their sum + 1e-20 and
// c the scale: weight_i = c s_i / Z, so ∂L/∂s_i = (c dweight_i − Σ_j dweight_j weight_j) / Z for i
// in S.
#include "kernels/ops/route.h"

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/chunks.h"

namespace mneme::cpu {
namespace {

constexpr double kWeightEps = 1e-20;

template <class T>
void Scores(bool softmax, const T* logits, int64_t experts, T* scores) {
  if (!softmax) {
    for (int64_t e = 0; e < experts; ++e) scores[e] = T(1) / (T(1) + std::exp(-logits[e]));
    return;
  }
  T top = logits[0];
  for (int64_t e = 1; e < experts; ++e) top = std::max(top, logits[e]);
  T sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += scores[e] = std::exp(logits[e] - top);
  for (int64_t e = 0; e < experts; ++e) scores[e] /= sum;
}

// Writes the indices of the `k` largest allowed values, largest first, ties to the lower index. A
// NaN neither wins nor breaks the promise of k distinct indices: a step with a NaN is skipped
// later, but must not go astray here.
template <class T>
void TopK(const T* values, int64_t n, int64_t k, std::vector<char>& allowed, int32_t* out) {
  for (int64_t c = 0; c < k; ++c) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (!allowed[static_cast<size_t>(i)]) continue;
      if (best < 0 || values[i] > values[best]) best = i;
    }
    CHECK_GE(best, 0);
    allowed[static_cast<size_t>(best)] = 0;
    out[c] = static_cast<int32_t>(best);
  }
}

// Room for one token's choice; one a chunk.
template <class T>
struct Chooser {
  Chooser(const RouteOptions& o, int64_t experts)
      : options(o),
        biased(static_cast<size_t>(experts)),
        group_score(static_cast<size_t>(o.groups)),
        allowed(static_cast<size_t>(experts)),
        group_allowed(static_cast<size_t>(o.groups)),
        kept(static_cast<size_t>(o.groups_kept)) {}

  void Choose(const T* scores, const T* bias, int32_t* chosen) {
    const auto experts = static_cast<int64_t>(biased.size());
    for (int64_t e = 0; e < experts; ++e) biased[static_cast<size_t>(e)] = scores[e] + bias[e];
    std::fill(allowed.begin(), allowed.end(), options.groups == options.groups_kept);
    if (options.groups != options.groups_kept) AllowBestGroups(experts / options.groups);
    TopK(biased.data(), experts, options.top_k, allowed, chosen);
  }

  void AllowBestGroups(int64_t size) {
    for (int64_t g = 0; g < options.groups; ++g) {
      T first = -std::numeric_limits<T>::infinity(), second = first;
      for (int64_t e = g * size; e < (g + 1) * size; ++e) {
        const T v = biased[static_cast<size_t>(e)];
        if (v > first) {
          second = first;
          first = v;
        } else if (v > second) {
          second = v;
        }
      }
      group_score[static_cast<size_t>(g)] = options.softmax || size == 1 ? first : first + second;
    }
    std::fill(group_allowed.begin(), group_allowed.end(), 1);
    TopK(group_score.data(), options.groups, options.groups_kept, group_allowed, kept.data());
    for (const int32_t g : kept)
      std::fill_n(allowed.begin() + g * size, size, static_cast<char>(1));
  }

  const RouteOptions& options;
  std::vector<T> biased, group_score;
  std::vector<char> allowed, group_allowed;
  std::vector<int32_t> kept;
};

template <class T>
void WeightsOfChosen(const RouteOptions& o, const T* scores, const int32_t* chosen, T* weights) {
  T factor = static_cast<T>(o.scale);
  if (o.normalize) {
    T sum = 0;
    for (int64_t k = 0; k < o.top_k; ++k) sum += scores[chosen[k]];
    factor /= sum + static_cast<T>(kWeightEps);
  }
  for (int64_t k = 0; k < o.top_k; ++k) weights[k] = scores[chosen[k]] * factor;
}

// Gradient of the balance loss with respect to the scores of one token: factor · (f_i − Σ_j f_j s_j
// / Z) / Z.
template <class T>
void AddBalanceGrad(const T* scores, const T* f, T factor, int64_t experts, T* dscores) {
  T sum = 0, weighted = 0;
  for (int64_t e = 0; e < experts; ++e) {
    sum += scores[e];
    weighted += f[e] * scores[e];
  }
  for (int64_t e = 0; e < experts; ++e) dscores[e] += factor * (f[e] - weighted / sum) / sum;
}

template <class T>
void WeightGrad(const RouteOptions& o, const T* scores, const int32_t* chosen, const T* weights,
                const T* dweights, T* dscores) {
  T sum = 1, inner = 0;
  if (o.normalize) {
    sum = static_cast<T>(kWeightEps);
    for (int64_t k = 0; k < o.top_k; ++k) {
      sum += scores[chosen[k]];
      inner += dweights[k] * weights[k];
    }
  }
  for (int64_t k = 0; k < o.top_k; ++k)
    dscores[chosen[k]] += (static_cast<T>(o.scale) * dweights[k] - inner) / sum;
}

}  // namespace

void Route(Stream&, const RouteOptions& options, const Tensor& logits, const Tensor& bias,
           Tensor& scores, Tensor& experts, Tensor& weights, Tensor& load) {
  const int64_t tokens = logits.dim(0), count = logits.dim(1), top_k = options.top_k;
  CHECK_EQ(count % options.groups, 0);
  CHECK_LE(top_k, count / options.groups * options.groups_kept);
  CHECK_EQ(experts.shape(), (Shape{tokens, top_k}));
  CHECK_EQ(load.elements(), count);
  auto* chosen = experts.data<int32_t>();
  ChunkSums<int64_t> loads(tokens, count);
  DispatchReal(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *x = logits.data<T>(), *b = bias.data<T>();
    T *s = scores.data<T>(), *w = weights.data<T>();
    ForChunks(tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
      Chooser<T> chooser(options, count);
      int64_t* chunk_load = loads.row(chunk);
      for (int64_t t = begin; t < end; ++t) {
        Scores(options.softmax, x + t * count, count, s + t * count);
        chooser.Choose(s + t * count, b, chosen + t * top_k);
        WeightsOfChosen(options, s + t * count, chosen + t * top_k, w + t * top_k);
        for (int64_t k = 0; k < top_k; ++k) ++chunk_load[chosen[t * top_k + k]];
      }
    });
  });
  loads.AddTo(load.data<int64_t>());
}

void BalanceLoss(Stream&, const RouteOptions& options, int64_t length, const Tensor& scores,
                 const Tensor& experts, const Tensor& scale, Tensor& f, Tensor& loss) {
  const int64_t count = scores.dim(1), rows = scores.dim(0) / length;
  CHECK_EQ(rows * length, scores.dim(0));
  CHECK_EQ(f.shape(), (Shape{rows, count}));
  const auto* chosen = experts.data<int32_t>();
  DispatchReal(scores.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* s = scores.data<T>();
    T* frequency = f.data<T>();
    std::vector<double> row_loss(static_cast<size_t>(rows));
    ForRows(rows, length * count, [&](int64_t r) {
      T* fr = frequency + r * count;
      std::fill_n(fr, count, T(0));
      const double share = static_cast<double>(count) / static_cast<double>(options.top_k * length);
      for (int64_t i = r * length * options.top_k; i < (r + 1) * length * options.top_k; ++i)
        fr[chosen[i]] += T(1);
      for (int64_t e = 0; e < count; ++e) fr[e] = static_cast<T>(fr[e] * share);
      double sum = 0;
      for (int64_t t = r * length; t < (r + 1) * length; ++t) {
        double total = 0, weighted = 0;
        for (int64_t e = 0; e < count; ++e) {
          total += s[t * count + e];
          weighted += fr[e] * s[t * count + e];
        }
        sum += weighted / total;
      }
      row_loss[static_cast<size_t>(r)] = sum / static_cast<double>(length);
    });
    double sum = 0;
    for (const double value : row_loss) sum += value;
    loss.data<T>()[0] += static_cast<T>(scale.data<T>()[0] * sum);
  });
}

void RouteGrad(Stream&, const RouteOptions& options, int64_t length, const Tensor& scores,
               const Tensor& experts, const Tensor& weights, const Tensor& dweights,
               const Tensor& balance_f, const Tensor& balance_scale, Tensor& dlogits) {
  const int64_t tokens = scores.dim(0), count = scores.dim(1), top_k = options.top_k;
  const auto* chosen = experts.data<int32_t>();
  DispatchReal(scores.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *s = scores.data<T>(), *w = weights.data<T>(), *dw = dweights.data<T>();
    const T* f = balance_f.defined() ? balance_f.data<T>() : nullptr;
    const T factor = f ? balance_scale.data<T>()[0] / static_cast<T>(length) : T(0);
    T* out = dlogits.data<T>();
    ForRows(tokens, 4 * count, [&](int64_t t) {
      const T* st = s + t * count;
      T* d = out + t * count;
      std::fill_n(d, count, T(0));
      WeightGrad(options, st, chosen + t * top_k, w + t * top_k, dw + t * top_k, d);
      if (f) AddBalanceGrad(st, f + t / length * count, factor, count, d);
      const T inner = options.softmax ? Dot(d, st, count) : T(0);
      for (int64_t e = 0; e < count; ++e)
        d[e] = options.softmax ? st[e] * (d[e] - inner) : d[e] * st[e] * (T(1) - st[e]);
    });
  });
}

void BiasUpdate(Stream&, const Tensor& load, double speed, const Tensor& apply, Tensor& bias) {
  if (apply.data<double>()[0] == 0) return;
  const int64_t count = load.elements();
  const auto* loads = load.data<int64_t>();
  int64_t total = 0;
  for (int64_t e = 0; e < count; ++e) total += loads[e];
  DispatchReal(bias.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* b = bias.data<T>();
    for (int64_t e = 0; e < count; ++e) {
      // mean > load, without leaving the integers: total > load · count.
      const int64_t difference = total - loads[e] * count;
      const int sign = (difference > 0) - (difference < 0);
      b[e] += static_cast<T>(speed * sign);
    }
  });
}

}  // namespace mneme::cpu
