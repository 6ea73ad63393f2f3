// Engram's addresses and gate (docs/mathematics.md). For one branch, a = w_h ⊙ w_k and c = r_h
// r_k / √D: s = c Σ h a k; ds = dα α(1 − α) g'(s); dh = ds (c a k − s r_h² h / D), dk likewise;
// dw_h = Σ_t ds c h k w_k.
#include "kernels/ops/engram.h"

#include <cmath>

#include "kernels/cpu/chunks.h"

namespace mneme::cpu {
namespace {

// The three sums of one gate: Σ h², Σ k² and Σ h w_h k w_k.
template <class T>
struct GateSums {
  T hh = 0, kk = 0, hk = 0;

  GateSums(const T* h, const T* k, const T* w_h, const T* w_k, int64_t n) {
    T sum_hh = 0, sum_kk = 0, sum_hk = 0;
#pragma omp simd reduction(+ : sum_hh, sum_kk, sum_hk)
    for (int64_t i = 0; i < n; ++i) {
      sum_hh += h[i] * h[i];
      sum_kk += k[i] * k[i];
      sum_hk += h[i] * w_h[i] * (k[i] * w_k[i]);
    }
    hh = sum_hh;
    kk = sum_kk;
    hk = sum_hk;
  }
};

// Reciprocal root mean square of n values from the sum of their squares.
template <class T>
T ReciprocalRms(T sum, int64_t n, double eps) {
  return T(1) / std::sqrt(sum / static_cast<T>(n) + static_cast<T>(eps));
}

template <class T>
T GateOf(const GateOptions& o, T s) {
  T g = s;
  if (o.signed_sqrt) {
    const T root = std::sqrt(std::max(std::abs(s), static_cast<T>(o.clamp)));
    g = s > 0 ? root : s < 0 ? -root : s;  // s itself: 0 stays 0, NaN stays NaN
  }
  return T(1) / (T(1) + std::exp(-g));
}

// ds / dα.
template <class T>
T GateSlope(const GateOptions& o, T s, T alpha) {
  const T slope = alpha * (T(1) - alpha);
  if (!o.signed_sqrt) return slope;
  const T size = std::abs(s);
  return size > static_cast<T>(o.clamp) ? slope / (T(2) * std::sqrt(size)) : T(0);
}

// The shapes of one call: M branches of width D, kv rows of `kv_width`.
struct GateShape {
  int64_t tokens, branches, width, kv_width;
};

GateShape ShapeOf(const GateOptions& options, const Tensor& h, const Tensor& kv) {
  const int64_t keys = options.gated ? h.dim(1) : 0;
  const GateShape shape{h.dim(0), h.dim(1), h.dim(2), (keys + 1) * h.dim(2)};
  CHECK_EQ(kv.shape(), (Shape{shape.tokens, shape.kv_width}));
  return shape;
}

template <class T>
void GateForward(const GateOptions& options, const GateShape& n, const Tensor& h, const Tensor& kv,
                 const Tensor& w_h, const Tensor& w_k, Tensor& rh, Tensor& rk, Tensor& s,
                 Tensor& alpha, Tensor& u) {
  const T root = std::sqrt(static_cast<T>(n.width));
  ForRows(n.tokens, n.kv_width, [&](int64_t t) {
    const T* keys = kv.data<T>() + t * n.kv_width;
    const T* value = keys + n.kv_width - n.width;
    for (int64_t m = 0; m < n.branches; ++m) {
      const int64_t i = t * n.branches + m;
      T gate = 1;
      if (options.gated) {
        const T *hm = h.data<T>() + i * n.width, *km = keys + m * n.width;
        const GateSums<T> sums(hm, km, w_h.data<T>() + m * n.width, w_k.data<T>() + m * n.width,
                               n.width);
        const T r_h = rh.data<T>()[i] = ReciprocalRms(sums.hh, n.width, options.eps);
        const T r_k = rk.data<T>()[i] = ReciprocalRms(sums.kk, n.width, options.eps);
        const T score = s.data<T>()[i] = sums.hk * (r_h * r_k / root);
        gate = GateOf(options, score);
      }
      alpha.data<T>()[i] = gate;
      T* out = u.data<T>() + i * n.width;
#pragma omp simd
      for (int64_t d = 0; d < n.width; ++d) out[d] = gate * value[d];
    }
  });
}

// No gate: u = v in every branch, so dv = Σ_m du and nothing reaches h.
template <class T>
void UngatedBackward(const GateShape& n, const Tensor& du, Tensor& dh, Tensor& dkv) {
  if (dh.defined()) std::fill_n(dh.data<T>(), dh.elements(), T(0));
  ForRows(n.tokens, n.branches * n.width, [&](int64_t t) {
    T* dv = dkv.data<T>() + t * n.width;
    std::fill_n(dv, n.width, T(0));
    for (int64_t m = 0; m < n.branches; ++m) {
      const T* g = du.data<T>() + (t * n.branches + m) * n.width;
#pragma omp simd
      for (int64_t d = 0; d < n.width; ++d) dv[d] += g[d];
    }
  });
}

// Gradients of one branch of one token. c = r_h r_k / √D · ds; the two shrinks are ds s r² / D.
template <class T>
struct BranchGrad {
  T c, shrink_h, shrink_k;

  void Apply(const T* h, const T* k, const T* w_h, const T* w_k, int64_t n, T* dh, T* dk, T* dw_h,
             T* dw_k) const {
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) {
      const T cw = c * w_h[d] * w_k[d], chk = c * h[d] * k[d];
      dh[d] = cw * k[d] - shrink_h * h[d];
      dk[d] = cw * h[d] - shrink_k * k[d];
      dw_h[d] += chk * w_k[d];
      dw_k[d] += chk * w_h[d];
    }
  }
};

template <class T>
void GateBackward(const GateOptions& options, const GateShape& n, const Tensor& du, const Tensor& h,
                  const Tensor& kv, const Tensor& w_h, const Tensor& w_k, const Tensor& rh,
                  const Tensor& rk, const Tensor& s, const Tensor& alpha, Tensor& dh, Tensor& dkv,
                  Tensor& dw_h, Tensor& dw_k) {
  const auto width = static_cast<T>(n.width);
  const T root = std::sqrt(width);
  const int64_t weights = n.branches * n.width;
  ChunkSums<T> sums(n.tokens, 2 * weights);
  ForChunks(n.tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
    T *sum_h = sums.row(chunk), *sum_k = sum_h + weights;
    for (int64_t t = begin; t < end; ++t) {
      const T *keys = kv.data<T>() + t * n.kv_width, *value = keys + weights;
      T *dkeys = dkv.data<T>() + t * n.kv_width, *dvalue = dkeys + weights;
      std::fill_n(dvalue, n.width, T(0));
      for (int64_t m = 0; m < n.branches; ++m) {
        const int64_t i = t * n.branches + m, at = m * n.width;
        const T* g = du.data<T>() + i * n.width;
        const T gate = alpha.data<T>()[i], score = s.data<T>()[i];
        const T r_h = rh.data<T>()[i], r_k = rk.data<T>()[i];
        const T ds = Dot(g, value, n.width) * GateSlope(options, score, gate);
        const BranchGrad<T> grad{ds * (r_h * r_k / root), ds * score * r_h * r_h / width,
                                 ds * score * r_k * r_k / width};
        grad.Apply(h.data<T>() + i * n.width, keys + at, w_h.data<T>() + at, w_k.data<T>() + at,
                   n.width, dh.data<T>() + i * n.width, dkeys + at, sum_h + at, sum_k + at);
#pragma omp simd
        for (int64_t d = 0; d < n.width; ++d) dvalue[d] += gate * g[d];
      }
    }
  });
  std::vector<T> total(static_cast<size_t>(2 * weights));
  sums.AddTo(total.data());
  T *out_h = dw_h.data<T>(), *out_k = dw_k.data<T>();
  for (int64_t i = 0; i < weights; ++i) {
    out_h[i] += total[static_cast<size_t>(i)];
    out_k[i] += total[static_cast<size_t>(weights + i)];
  }
}

}  // namespace

void NgramRows(Stream&, const NgramHash& hash, const Tensor& tokens, const Tensor& canonical,
               int64_t length, const Tensor& doc_start, Tensor& rows) {
  const int64_t count = tokens.elements(), heads = hash.heads;
  const auto orders = static_cast<int64_t>(hash.orders.size());
  CHECK_EQ(rows.shape(), (Shape{count, orders * heads}));
  CHECK_EQ(static_cast<int64_t>(hash.multipliers.size()), hash.orders.back());
  const auto *ids = tokens.data<int32_t>(), *map = canonical.data<int32_t>();
  const auto* start = doc_start.data<int32_t>();
  auto* out = rows.data<int64_t>();
  const int64_t vocabulary = canonical.elements();
  ForRows(count, 16 * orders * heads, [&](int64_t t) {
    const int64_t history = t % length - start[t];  // tokens of this document before t
    uint64_t mix = 0;
    int64_t back = 0;
    for (int64_t o = 0; o < orders; ++o) {
      for (; back < hash.orders[static_cast<size_t>(o)]; ++back) {
        int64_t id = hash.pad;
        if (back <= history) {
          const int32_t token = ids[t - back];
          CHECK(token >= 0 && token < vocabulary);
          id = map[token];
        }
        mix ^= static_cast<uint64_t>(id) *
               static_cast<uint64_t>(hash.multipliers[static_cast<size_t>(back)]);
      }
      for (int64_t k = o * heads; k < (o + 1) * heads; ++k) {
        const auto prime = static_cast<uint64_t>(hash.primes[static_cast<size_t>(k)]);
        out[t * orders * heads + k] =
            static_cast<int64_t>(mix % prime) + hash.offsets[static_cast<size_t>(k)];
      }
    }
  });
}

void EngramGate(Stream&, const GateOptions& options, const Tensor& h, const Tensor& kv,
                const Tensor& w_h, const Tensor& w_k, Tensor& rh, Tensor& rk, Tensor& s,
                Tensor& alpha, Tensor& u) {
  const GateShape shape = ShapeOf(options, h, kv);
  DispatchReal(h.dtype(), [&](auto zero) {
    GateForward<decltype(zero)>(options, shape, h, kv, w_h, w_k, rh, rk, s, alpha, u);
  });
}

void EngramGateGrad(Stream&, const GateOptions& options, const Tensor& du, const Tensor& addend,
                    const Tensor& h, const Tensor& kv, const Tensor& w_h, const Tensor& w_k,
                    const Tensor& rh, const Tensor& rk, const Tensor& s, const Tensor& alpha,
                    Tensor& dh, Tensor& dkv, Tensor& dw_h, Tensor& dw_k) {
  const GateShape shape = ShapeOf(options, h, kv);
  DispatchReal(h.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (options.gated) {
      GateBackward<T>(options, shape, du, h, kv, w_h, w_k, rh, rk, s, alpha, dh, dkv, dw_h, dw_k);
    } else {
      UngatedBackward<T>(shape, du, dh, dkv);
    }
    if (!addend.defined() || !dh.defined()) return;
    const T* more = addend.data<T>();
    T* to = dh.data<T>();
    ForRows(shape.tokens, shape.branches * shape.width, [&](int64_t t) {
      const int64_t row = shape.branches * shape.width;
#pragma omp simd
      for (int64_t i = t * row; i < (t + 1) * row; ++i) to[i] += more[i];
    });
  });
}

}  // namespace mneme::cpu
