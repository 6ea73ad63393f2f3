// mHC's mixes and what they do to the streams (docs/mathematics.md). With m = u / r, u = x̃
// φ, r = √(mean x̃² + ε): du = dm / r and dr = −Σ dm m / r, so dx̃ = du φᵀ + dr x̃ / (nC r).
#include "kernels/ops/hyper.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/sinkhorn.h"
#include "kernels/ops/matmul.h"

namespace mneme::cpu {
namespace {

template <class T>
T Sigmoid(T z) {
  return T(1) / (T(1) + std::exp(-z));
}

// n streams of width C; x̃ is their concatenation.
struct Streams {
  int64_t tokens, n, width;
  int64_t flat() const { return n * width; }
  int64_t mixes() const { return n * n + 2 * n; }
};

Streams StreamsOf(const Tensor& x) {
  CHECK_EQ(x.shape().rank(), 3);
  return {x.dim(0), x.dim(1), x.dim(2)};
}

Tensor Flatten(const Tensor& x) { return x.Reshape({x.dim(0), x.dim(1) * x.dim(2)}); }

// r[t] = √(mean(x̃²) + eps); then every row of u is divided by it.
template <class T>
void DivideByRms(const Streams& s, const T* x, double eps, T* r, T* u, int64_t columns) {
  ForRows(s.tokens, s.flat(), [&](int64_t t) {
    const T* row = x + t * s.flat();
    const T mean = Dot(row, row, s.flat()) / static_cast<T>(s.flat());
    r[t] = std::sqrt(mean + static_cast<T>(eps));
    for (int64_t c = 0; c < columns; ++c) u[t * columns + c] /= r[t];
  });
}

// Turns dm into du = dm / r, in place, and writes the factor of x̃ in dx̃.
template <class T>
T RmsGrad(const Streams& s, const T* m, T r, int64_t columns, T* dm) {
  T inner = 0;
  for (int64_t c = 0; c < columns; ++c) {
    inner += dm[c] * m[c];
    dm[c] /= r;
  }
  return -inner / (r * r * static_cast<T>(s.flat()));
}

// dx[t] += factor[t] · x[t].
template <class T>
void AddScaled(const Streams& s, const std::vector<T>& factor, const T* x, T* dx) {
  ForRows(s.tokens, s.flat(), [&](int64_t t) {
    const T f = factor[static_cast<size_t>(t)];
#pragma omp simd
    for (int64_t i = t * s.flat(); i < (t + 1) * s.flat(); ++i) dx[i] += f * x[i];
  });
}

// Gradients of the mixes of one token with respect to their arguments α m + b. dz [n² + 2n].
template <class T>
void MixGrad(const HyperOptions& o, const T* m, const T* alpha, const T* b, const T* dpre,
             const T* dpost, const T* dres, Sinkhorn<T>& sinkhorn, std::vector<T>& logits, T* dz) {
  const int64_t n = o.streams;
  for (int64_t i = 0; i < n; ++i) {
    const T p = Sigmoid(alpha[0] * m[i] + b[i]);
    dz[i] = dpre[i] * p * (T(1) - p);
    const T q = Sigmoid(alpha[1] * m[n + i] + b[n + i]);
    dz[n + i] = dpost[i] * static_cast<T>(o.post_mult) * q * (T(1) - q);
  }
  for (int64_t k = 0; k < n * n; ++k)
    logits[static_cast<size_t>(k)] = alpha[2] * m[2 * n + k] + b[2 * n + k];
  sinkhorn.Forward(logits.data());
  std::copy_n(dres, n * n, dz + 2 * n);
  sinkhorn.Backward(dz + 2 * n);
}

// out[t, i] = ⟨v[t], x[t, i]⟩.
template <class T>
void StreamDots(const Streams& s, const T* v, const T* x, int64_t t, T* out) {
  for (int64_t i = 0; i < s.n; ++i)
    out[i] = Dot(v + t * s.width, x + (t * s.n + i) * s.width, s.width);
}

template <class T>
void WeightedSum(const Streams& s, const T* x, const T* weight, T* h) {
  ForRows(s.tokens, s.flat(), [&](int64_t t) {
    T* out = h + t * s.width;
    std::fill_n(out, s.width, T(0));
    for (int64_t i = 0; i < s.n; ++i) {
      const T w = weight[t * s.n + i];
      const T* stream = x + (t * s.n + i) * s.width;
#pragma omp simd
      for (int64_t c = 0; c < s.width; ++c) out[c] += w * stream[c];
    }
  });
}

// dx_i += weight_i g.
template <class T>
void AddWeighted(const Streams& s, const T* weight, const T* g, T* dx) {
  ForRows(s.tokens, s.flat(), [&](int64_t t) {
    for (int64_t i = t * s.n; i < (t + 1) * s.n; ++i)
#pragma omp simd
      for (int64_t c = 0; c < s.width; ++c) dx[i * s.width + c] += weight[i] * g[t * s.width + c];
  });
}

// dx_j += Σ_i res[i, j] g_i.
template <class T>
void AddMixed(const Streams& s, const T* res, const T* g, T* dx) {
  ForRows(s.tokens, s.flat(), [&](int64_t t) {
    for (int64_t i = t * s.n; i < (t + 1) * s.n; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        const T weight = res[i * s.n + j];
        T* to = dx + (t * s.n + j) * s.width;
#pragma omp simd
        for (int64_t c = 0; c < s.width; ++c) to[c] += weight * g[i * s.width + c];
      }
    }
  });
}

}  // namespace

void HyperEnter(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor& phi,
                const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m, Tensor& pre,
                Tensor& post, Tensor& res, Tensor& h) {
  const Streams s = StreamsOf(x);
  const int64_t n = s.n, columns = s.mixes();
  CHECK_EQ(n, options.streams);
  CHECK_EQ(phi.shape(), (Shape{s.flat(), columns}));
  Matmul(stream, Flatten(x), Trans::kNo, phi, Trans::kNo, {}, m);
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* mix = m.data<T>();
    DivideByRms(s, x.data<T>(), options.norm_eps, r.data<T>(), mix, columns);
    const T *a = alpha.data<T>(), *bias = b.data<T>();
    T *p = pre.data<T>(), *q = post.data<T>(), *mixed = res.data<T>();
    ForChunks(s.tokens, [&](int64_t, int64_t begin, int64_t end) {
      Sinkhorn<T> sinkhorn(n, options.sinkhorn_iterations, options.eps);
      std::vector<T> logits(static_cast<size_t>(n * n));
      for (int64_t t = begin; t < end; ++t) {
        const T* row = mix + t * columns;
        for (int64_t i = 0; i < n; ++i) {
          p[t * n + i] = Sigmoid(a[0] * row[i] + bias[i]) + static_cast<T>(options.eps);
          q[t * n + i] =
              static_cast<T>(options.post_mult) * Sigmoid(a[1] * row[n + i] + bias[n + i]);
        }
        for (int64_t k = 0; k < n * n; ++k)
          logits[static_cast<size_t>(k)] = a[2] * row[2 * n + k] + bias[2 * n + k];
        std::copy_n(sinkhorn.Forward(logits.data()), n * n, mixed + t * n * n);
      }
    });
    WeightedSum(s, x.data<T>(), pre.data<T>(), h.data<T>());
  });
}

void HyperLeave(Stream&, const Tensor& x, const Tensor& res, const Tensor& post, const Tensor& y,
                Tensor& out) {
  const Streams s = StreamsOf(x);
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *in = x.data<T>(), *h = res.data<T>(), *p = post.data<T>(), *f = y.data<T>();
    T* to = out.data<T>();
    ForRows(s.tokens, s.flat(), [&](int64_t t) {
      for (int64_t i = t * s.n; i < (t + 1) * s.n; ++i) {
        T* row = to + i * s.width;
#pragma omp simd
        for (int64_t c = 0; c < s.width; ++c) row[c] = p[i] * f[t * s.width + c];
        for (int64_t j = 0; j < s.n; ++j) {
          const T weight = h[i * s.n + j];
          const T* from = in + (t * s.n + j) * s.width;
#pragma omp simd
          for (int64_t c = 0; c < s.width; ++c) row[c] += weight * from[c];
        }
      }
    });
  });
}

void HyperLeaveEnter(Stream& stream, const HyperOptions& options, const Tensor& x,
                     const Tensor& res, const Tensor& post, const Tensor& y, Tensor& out,
                     const Tensor& phi, const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m,
                     Tensor& next_pre, Tensor& next_post, Tensor& next_res, Tensor& h) {
  HyperLeave(stream, x, res, post, y, out);
  HyperEnter(stream, options, out, phi, alpha, b, r, m, next_pre, next_post, next_res, h);
}

void HyperLeaveGrad(Stream&, const Tensor& dout, const Tensor& x, const Tensor& post,
                    const Tensor& y, Tensor& dres, Tensor& dpost, Tensor& dy) {
  const Streams s = StreamsOf(x);
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *g = dout.data<T>(), *in = x.data<T>(), *f = y.data<T>();
    T *dh = dres.data<T>(), *dp = dpost.data<T>();
    ForRows(s.tokens, s.flat(), [&](int64_t t) {
      StreamDots(s, f, g, t, dp + t * s.n);
      for (int64_t i = t * s.n; i < (t + 1) * s.n; ++i) {
        for (int64_t j = 0; j < s.n; ++j)
          dh[i * s.n + j] = Dot(g + i * s.width, in + (t * s.n + j) * s.width, s.width);
      }
    });
    WeightedSum(s, g, post.data<T>(), dy.data<T>());
  });
}

void HyperEnterGrad(Stream& stream, const HyperOptions& options, const Tensor& dout,
                    const Tensor& dh, const Tensor& dres, const Tensor& dpost, const Tensor& x,
                    const Tensor& phi, const Tensor& alpha, const Tensor& b, const Tensor& r,
                    const Tensor& m, const Tensor& pre, const Tensor& res, Tensor& dx, Tensor& dphi,
                    Tensor& dalpha, Tensor& db) {
  const Streams s = StreamsOf(x);
  const int64_t n = s.n, columns = s.mixes();
  Tensor du = Tensor::Empty(stream, x.dtype(), {s.tokens, columns});
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* mix = m.data<T>();
    T* d = du.data<T>();
    std::vector<T> factor(static_cast<size_t>(s.tokens));
    ChunkSums<double> sums(s.tokens, 3 + columns);  // dalpha, db
    ForChunks(s.tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
      Sinkhorn<T> sinkhorn(n, options.sinkhorn_iterations, options.eps);
      std::vector<T> logits(static_cast<size_t>(n * n)), dpre(static_cast<size_t>(n));
      double* sum = sums.row(chunk);
      for (int64_t t = begin; t < end; ++t) {
        const T* row = mix + t * columns;
        T* dz = d + t * columns;
        StreamDots(s, dh.data<T>(), x.data<T>(), t, dpre.data());
        MixGrad(options, row, alpha.data<T>(), b.data<T>(), dpre.data(), dpost.data<T>() + t * n,
                dres.data<T>() + t * n * n, sinkhorn, logits, dz);
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t group = std::min<int64_t>(c / n, 2);
          sum[group] += static_cast<double>(dz[c]) * row[c];
          sum[3 + c] += dz[c];
          dz[c] *= alpha.data<T>()[group];
        }
        factor[static_cast<size_t>(t)] = RmsGrad(s, row, r.data<T>()[t], columns, dz);
      }
    });
    std::vector<double> total(static_cast<size_t>(3 + columns));
    sums.AddTo(total.data());
    for (int64_t g = 0; g < 3; ++g)
      dalpha.data<T>()[g] += static_cast<T>(total[static_cast<size_t>(g)]);
    for (int64_t c = 0; c < columns; ++c)
      db.data<T>()[c] += static_cast<T>(total[static_cast<size_t>(3 + c)]);
    Tensor dflat = Flatten(dx);
    Matmul(stream, du, Trans::kNo, phi, Trans::kYes, {}, dflat);
    Matmul(stream, Flatten(x), Trans::kYes, du, Trans::kNo, dphi, dphi);
    AddScaled(s, factor, x.data<T>(), dx.data<T>());
    AddWeighted(s, pre.data<T>(), dh.data<T>(), dx.data<T>());
    AddMixed(s, res.data<T>(), dout.data<T>(), dx.data<T>());
  });
}

void HyperRead(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor& fn,
               const Tensor& scale, const Tensor& base, Tensor& r, Tensor& logit, Tensor& w,
               Tensor& h) {
  const Streams s = StreamsOf(x);
  CHECK_EQ(fn.shape(), (Shape{s.n, s.flat()}));
  Matmul(stream, Flatten(x), Trans::kNo, fn, Trans::kYes, {}, logit);
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *z = logit.data<T>(), *weight = w.data<T>();
    DivideByRms(s, x.data<T>(), options.norm_eps, r.data<T>(), z, s.n);
    const T factor = scale.data<T>()[0];
    for (int64_t k = 0; k < s.tokens * s.n; ++k)
      weight[k] = Sigmoid(factor * z[k] + base.data<T>()[k % s.n]) + static_cast<T>(options.eps);
    WeightedSum(s, x.data<T>(), weight, h.data<T>());
  });
}

void HyperReadGrad(Stream& stream, const HyperOptions&, const Tensor& dh, const Tensor& x,
                   const Tensor& fn, const Tensor& scale, const Tensor& base, const Tensor& r,
                   const Tensor& logit, const Tensor& w, Tensor& dx, Tensor& dfn, Tensor& dscale,
                   Tensor& dbase) {
  const Streams s = StreamsOf(x);
  Tensor du = Tensor::Empty(stream, x.dtype(), {s.tokens, s.n});
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T *z = logit.data<T>(), *g = dh.data<T>(), factor = scale.data<T>()[0];
    std::vector<T> shrink(static_cast<size_t>(s.tokens));
    ChunkSums<double> sums(s.tokens, 1 + s.n);  // dscale, dbase
    ForChunks(s.tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
      double* sum = sums.row(chunk);
      for (int64_t t = begin; t < end; ++t) {
        T* d = du.data<T>() + t * s.n;
        StreamDots(s, g, x.data<T>(), t, d);
        for (int64_t i = 0; i < s.n; ++i) {
          const T p = Sigmoid(factor * z[t * s.n + i] + base.data<T>()[i]);
          d[i] *= p * (T(1) - p);
          sum[0] += static_cast<double>(d[i]) * z[t * s.n + i];
          sum[1 + i] += d[i];
          d[i] *= factor;
        }
        shrink[static_cast<size_t>(t)] = RmsGrad(s, z + t * s.n, r.data<T>()[t], s.n, d);
      }
    });
    std::vector<double> total(static_cast<size_t>(1 + s.n));
    sums.AddTo(total.data());
    dscale.data<T>()[0] += static_cast<T>(total[0]);
    for (int64_t i = 0; i < s.n; ++i)
      dbase.data<T>()[i] += static_cast<T>(total[static_cast<size_t>(1 + i)]);
    Tensor dflat = Flatten(dx);
    Matmul(stream, du, Trans::kNo, fn, Trans::kNo, {}, dflat);
    Matmul(stream, du, Trans::kYes, Flatten(x), Trans::kNo, dfn, dfn);
    AddScaled(s, shrink, x.data<T>(), dx.data<T>());
    AddWeighted(s, w.data<T>(), g, dx.data<T>());
  });
}

void HyperExpand(Stream&, const Tensor& x, Tensor& out) {
  const Streams s = StreamsOf(out);
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    ForRows(s.tokens * s.n, s.width, [&](int64_t i) {
      std::copy_n(x.data<T>() + i / s.n * s.width, s.width, out.data<T>() + i * s.width);
    });
  });
}

void HyperReduce(Stream&, const Tensor& x, double factor, Tensor& h) {
  const Streams s = StreamsOf(x);
  DispatchReal(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    ForRows(s.tokens, s.flat(), [&](int64_t t) {
      T* to = h.data<T>() + t * s.width;
      std::fill_n(to, s.width, T(0));
      for (int64_t i = t * s.n; i < (t + 1) * s.n; ++i)
#pragma omp simd
        for (int64_t c = 0; c < s.width; ++c) to[c] += x.data<T>()[i * s.width + c];
      for (int64_t c = 0; c < s.width; ++c) to[c] *= static_cast<T>(factor);
    });
  });
}

}  // namespace mneme::cpu
