// mHC for the four streams of the paper, in f32: Sinkhorn runs over blocks of tokens side by side,
// and the streams are mixed in one pass over the width.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/fast.h"
#include "kernels/ops/matmul.h"

namespace mneme::cpu {
namespace {

constexpr int kN = 4;
constexpr int kMixes = kN * kN + 2 * kN;
constexpr int kBlock = 16;  // tokens side by side

using Lane = float[kBlock];

bool Fits(const Tensor& x) { return x.dtype() == DType::kF32 && x.dim(1) == kN; }

// Half iterations 1, 3, … divide rows (over j), 2, 4, … columns (over i).
constexpr int At(int half, int line, int k) { return half % 2 ? line * kN + k : k * kN + line; }

// Sinkhorn of a block of tokens: every number is one Lane. Keeps the way when asked.
class BlockSinkhorn {
 public:
  BlockSinkhorn(int64_t iterations, double eps, bool keep)
      : halves_(static_cast<int>(2 * iterations)),
        eps_(static_cast<float>(eps)),
        keep_(keep),
        states_(keep ? static_cast<size_t>(halves_ * kN * kN) : size_t{0}),
        inverses_(keep ? static_cast<size_t>(halves_ * kN) : size_t{0}) {}

  // a [kN * kN]: logits on entry, the mix on return.
  void Forward(Lane* a) {
    Softmax(a);
    if (keep_) std::copy_n(&a[0][0], kN * kN * kBlock, &softmax_[0][0]);
    for (int k = 0; k < kN * kN; ++k)
      for (int t = 0; t < kBlock; ++t) a[k][t] += eps_;
    for (int half = 1; half < halves_; ++half) Normalize(half, a);
  }

  // g [kN * kN]: gradient of the mix on entry, of the logits on return. REQUIRES: keep, and Forward
  // before.
  void Backward(Lane* g) const {
    for (int half = halves_ - 1; half > 0; --half) {
      const Packed* y = states_.data() + half * kN * kN;
      for (int line = 0; line < kN; ++line) {
        const float* inverse = inverses_[static_cast<size_t>(half * kN + line)].lane;
        const int a0 = At(half, line, 0), a1 = At(half, line, 1), a2 = At(half, line, 2),
                  a3 = At(half, line, 3);
#pragma omp simd
        for (int t = 0; t < kBlock; ++t) {
          const float inner = g[a0][t] * y[a0].lane[t] + g[a1][t] * y[a1].lane[t] +
                              g[a2][t] * y[a2].lane[t] + g[a3][t] * y[a3].lane[t];
          g[a0][t] = (g[a0][t] - inner) * inverse[t];
          g[a1][t] = (g[a1][t] - inner) * inverse[t];
          g[a2][t] = (g[a2][t] - inner) * inverse[t];
          g[a3][t] = (g[a3][t] - inner) * inverse[t];
        }
      }
    }
    SoftmaxGrad(g);
  }

 private:
  struct Packed {
    alignas(32) Lane lane;
  };

  static void Softmax(Lane* a) {
    for (int j = 0; j < kN; ++j) {
      float *a0 = a[j], *a1 = a[kN + j], *a2 = a[2 * kN + j], *a3 = a[3 * kN + j];
#pragma omp simd
      for (int t = 0; t < kBlock; ++t) {
        const float top = std::max(std::max(a0[t], a1[t]), std::max(a2[t], a3[t]));
        a0[t] = Exp(a0[t] - top);
        a1[t] = Exp(a1[t] - top);
        a2[t] = Exp(a2[t] - top);
        a3[t] = Exp(a3[t] - top);
        const float inverse = 1.0f / (a0[t] + a1[t] + a2[t] + a3[t]);
        a0[t] *= inverse;
        a1[t] *= inverse;
        a2[t] *= inverse;
        a3[t] *= inverse;
      }
    }
  }

  void SoftmaxGrad(Lane* g) const {
    for (int j = 0; j < kN; ++j) {
      Lane inner = {};
      for (int i = 0; i < kN; ++i)
        for (int t = 0; t < kBlock; ++t) inner[t] += g[i * kN + j][t] * softmax_[i * kN + j][t];
      for (int i = 0; i < kN; ++i)
        for (int t = 0; t < kBlock; ++t)
          g[i * kN + j][t] = softmax_[i * kN + j][t] * (g[i * kN + j][t] - inner[t]);
    }
  }

  void Normalize(int half, Lane* a) {
    for (int line = 0; line < kN; ++line) {
      float *a0 = a[At(half, line, 0)], *a1 = a[At(half, line, 1)], *a2 = a[At(half, line, 2)],
            *a3 = a[At(half, line, 3)];
      Lane inverse;
#pragma omp simd
      for (int t = 0; t < kBlock; ++t) {
        inverse[t] = 1.0f / (eps_ + a0[t] + a1[t] + a2[t] + a3[t]);
        a0[t] *= inverse[t];
        a1[t] *= inverse[t];
        a2[t] *= inverse[t];
        a3[t] *= inverse[t];
      }
      if (keep_)
        std::copy_n(inverse, kBlock, inverses_[static_cast<size_t>(half * kN + line)].lane);
    }
    if (!keep_) return;
    for (int k = 0; k < kN * kN; ++k)
      std::copy_n(a[k], kBlock, states_[static_cast<size_t>(half * kN * kN + k)].lane);
  }

  int halves_;
  float eps_;
  bool keep_;
  alignas(32) Lane softmax_[kN * kN] = {};
  std::vector<Packed> states_, inverses_;
};

// The arguments α m + b of a block, number by number; absent tokens are 0.
struct BlockArguments {
  alignas(32) Lane z[kMixes];

  void Load(const float* m, int64_t tokens, const float* alpha, const float* b) {
    for (int c = 0; c < kMixes; ++c) {
      const float gain = alpha[std::min(c / kN, 2)];
      for (int64_t t = 0; t < kBlock; ++t)
        z[c][t] = t < tokens ? gain * m[t * kMixes + c] + b[c] : 0.0f;
    }
  }
  // The sigmoids that pre and post are made of.
  void Squash() {
    float* all = &z[0][0];
#pragma omp simd
    for (int k = 0; k < 2 * kN * kBlock; ++k) all[k] = 1.0f / (1.0f + Exp(-all[k]));
  }
};

// out[t, k] = a[k][t] for the tokens that are there.
void StoreTokens(const Lane* a, int count, int64_t tokens, float factor, float offset, float* out) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int k = 0; k < count; ++k) out[t * count + k] = factor * a[k][t] + offset;
}

void LoadTokens(const float* in, int count, int64_t tokens, Lane* a) {
  for (int k = 0; k < count; ++k)
    for (int64_t t = 0; t < kBlock; ++t) a[k][t] = t < tokens ? in[t * count + k] : 0.0f;
}

// Calls f(first token, tokens) for blocks of at most kBlock tokens of [begin, end).
template <class F>
void ForBlocks(int64_t begin, int64_t end, F&& f) {
  for (int64_t t = begin; t < end; t += kBlock) f(t, std::min<int64_t>(kBlock, end - t));
}

float SumOfSquares(const float* x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

void DivideByRms(const Tensor& x, double eps, Tensor& r, Tensor& m) {
  const int64_t flat = x.dim(1) * x.dim(2);
  const float* in = x.data<float>();
  float *root = r.data<float>(), *u = m.data<float>();
  ForRows(x.dim(0), flat, [&](int64_t t) {
    const float mean = SumOfSquares(in + t * flat, flat) / static_cast<float>(flat);
    root[t] = std::sqrt(mean + static_cast<float>(eps));
    for (int c = 0; c < kMixes; ++c) u[t * kMixes + c] /= root[t];
  });
}

// Gradients of a block's arguments from those of its mixes; `z` holds the arguments on entry, their
// gradients on return.
void BlockGrad(const HyperOptions& o, BlockSinkhorn& sinkhorn, const float* dpre,
               const float* dpost, const float* dres, int64_t tokens, BlockArguments& a) {
  a.Squash();
  sinkhorn.Forward(a.z + 2 * kN);
  alignas(32) Lane d[2 * kN];
  LoadTokens(dpre, kN, tokens, d);
  LoadTokens(dpost, kN, tokens, d + kN);
  const auto post_mult = static_cast<float>(o.post_mult);
  for (int c = 0; c < 2 * kN; ++c) {
    const float factor = c < kN ? 1.0f : post_mult;
    for (int t = 0; t < kBlock; ++t) a.z[c][t] = factor * d[c][t] * a.z[c][t] * (1.0f - a.z[c][t]);
  }
  LoadTokens(dres, kN * kN, tokens, a.z + 2 * kN);
  sinkhorn.Backward(a.z + 2 * kN);
}

// From the gradients dz of one token's arguments: adds to dalpha and db, writes du, returns the
// factor of x̃ in dx̃.
float FinishToken(const Lane* dz, int64_t lane, const float* m, const float* alpha, float r,
                  int64_t flat, double* sum, float* du) {
  float inner = 0;
  for (int c = 0; c < kMixes; ++c) {
    const int group = std::min(c / kN, 2);
    const float d = dz[c][lane];
    sum[group] += static_cast<double>(d) * m[c];
    sum[3 + c] += d;
    const float dm = d * alpha[group];
    inner += dm * m[c];
    du[c] = dm / r;
  }
  return -inner / (r * r * static_cast<float>(flat));
}

Tensor Flatten(const Tensor& x) { return x.Reshape({x.dim(0), x.dim(1) * x.dim(2)}); }

void WeightedSum(const Tensor& x, const float* w, Tensor& h) {
  const int64_t width = x.dim(2);
  const float* in = x.data<float>();
  float* out = h.data<float>();
  ForRows(x.dim(0), kN * width, [&](int64_t t) {
    const float *x0 = in + t * kN * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
    const float p0 = w[t * kN], p1 = w[t * kN + 1], p2 = w[t * kN + 2], p3 = w[t * kN + 3];
    float* to = out + t * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) to[c] = p0 * x0[c] + p1 * x1[c] + p2 * x2[c] + p3 * x3[c];
  });
}

// dots[t, i] = ⟨g[t], x[t, i]⟩.
void StreamDots(const Tensor& g, const Tensor& x, float* dots) {
  const int64_t width = x.dim(2);
  const float *in = x.data<float>(), *grad = g.data<float>();
  ForRows(x.dim(0), kN * width, [&](int64_t t) {
    const float *x0 = in + t * kN * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
    const float* v = grad + t * width;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t c = 0; c < width; ++c) {
      s0 += v[c] * x0[c];
      s1 += v[c] * x1[c];
      s2 += v[c] * x2[c];
      s3 += v[c] * x3[c];
    }
    float* to = dots + t * kN;
    to[0] = s0;
    to[1] = s1;
    to[2] = s2;
    to[3] = s3;
  });
}

// dx_j += factor x_j + pre_j dh + Σ_i res[i, j] dout_i.
void AddToStreams(const Tensor& x, const std::vector<float>& factor, const Tensor& dh,
                  const Tensor& pre, const Tensor& dout, const Tensor& res, Tensor& dx) {
  const int64_t width = x.dim(2);
  const float *in = x.data<float>(), *inner = dh.data<float>(), *grad = dout.data<float>();
  const float *weights = pre.data<float>(), *mix = res.data<float>();
  float* out = dx.data<float>();
  ForRows(x.dim(0), kN * width, [&](int64_t t) {
    const float *g0 = grad + t * kN * width, *g1 = g0 + width, *g2 = g1 + width, *g3 = g2 + width;
    const float f = factor[static_cast<size_t>(t)];
    const float* d = inner + t * width;
    for (int j = 0; j < kN; ++j) {
      const float* h = mix + t * kN * kN + j;
      const float h0 = h[0], h1 = h[kN], h2 = h[2 * kN], h3 = h[3 * kN], p = weights[t * kN + j];
      const float* from = in + (t * kN + j) * width;
      float* to = out + (t * kN + j) * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c)
        to[c] += h0 * g0[c] + h1 * g1[c] + h2 * g2[c] + h3 * g3[c] + p * d[c] + f * from[c];
    }
  });
}

}  // namespace

void HyperEnterFast(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor& phi,
                    const Tensor& alpha, const Tensor& b, Tensor& r, Tensor& m, Tensor& pre,
                    Tensor& post, Tensor& res, Tensor& h) {
  if (!Fits(x)) return HyperEnter(stream, options, x, phi, alpha, b, r, m, pre, post, res, h);
  Matmul(stream, Flatten(x), Trans::kNo, phi, Trans::kNo, {}, m);
  DivideByRms(x, options.norm_eps, r, m);
  const auto eps = static_cast<float>(options.eps),
             post_mult = static_cast<float>(options.post_mult);
  const float *mix = m.data<float>(), *gains = alpha.data<float>(), *bias = b.data<float>();
  float *p = pre.data<float>(), *q = post.data<float>(), *mixed = res.data<float>();
  ForChunks(x.dim(0), [&](int64_t, int64_t begin, int64_t end) {
    BlockSinkhorn sinkhorn(options.sinkhorn_iterations, options.eps, false);
    BlockArguments a;
    ForBlocks(begin, end, [&](int64_t t, int64_t tokens) {
      a.Load(mix + t * kMixes, tokens, gains, bias);
      a.Squash();
      sinkhorn.Forward(a.z + 2 * kN);
      StoreTokens(a.z, kN, tokens, 1.0f, eps, p + t * kN);
      StoreTokens(a.z + kN, kN, tokens, post_mult, 0.0f, q + t * kN);
      StoreTokens(a.z + 2 * kN, kN * kN, tokens, 1.0f, 0.0f, mixed + t * kN * kN);
    });
  });
  WeightedSum(x, p, h);
}

void HyperLeaveFast(Stream& stream, const Tensor& x, const Tensor& res, const Tensor& post,
                    const Tensor& y, Tensor& out) {
  if (!Fits(x)) return HyperLeave(stream, x, res, post, y, out);
  const int64_t width = x.dim(2);
  const float *in = x.data<float>(), *mix = res.data<float>(), *w = post.data<float>();
  const float* layer = y.data<float>();
  float* to = out.data<float>();
  ForRows(x.dim(0), kN * width, [&](int64_t t) {
    const float *x0 = in + t * kN * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
    const float* f = layer + t * width;
    for (int i = 0; i < kN; ++i) {
      const float* h = mix + (t * kN + i) * kN;
      const float h0 = h[0], h1 = h[1], h2 = h[2], h3 = h[3], p = w[t * kN + i];
      float* row = to + (t * kN + i) * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c)
        row[c] = h0 * x0[c] + h1 * x1[c] + h2 * x2[c] + h3 * x3[c] + p * f[c];
    }
  });
}

void HyperLeaveEnterFast(Stream& stream, const HyperOptions& options, const Tensor& x,
                         const Tensor& res, const Tensor& post, const Tensor& y, Tensor& out,
                         const Tensor& phi, const Tensor& alpha, const Tensor& b, Tensor& r,
                         Tensor& m, Tensor& next_pre, Tensor& next_post, Tensor& next_res,
                         Tensor& h) {
  HyperLeaveFast(stream, x, res, post, y, out);
  HyperEnterFast(stream, options, out, phi, alpha, b, r, m, next_pre, next_post, next_res, h);
}

void HyperLeaveGradFast(Stream& stream, const Tensor& dout, const Tensor& x, const Tensor& post,
                        const Tensor& y, Tensor& dres, Tensor& dpost, Tensor& dy) {
  if (!Fits(x)) return HyperLeaveGrad(stream, dout, x, post, y, dres, dpost, dy);
  const int64_t width = x.dim(2);
  const float *grad = dout.data<float>(), *in = x.data<float>();
  const float *w = post.data<float>(), *layer = y.data<float>();
  float *dmix = dres.data<float>(), *dw = dpost.data<float>();
  WeightedSum(dout, w, dy);
  ForRows(x.dim(0), kN * width, [&](int64_t t) {
    const float* g0 = grad + t * kN * width;
    const float *x0 = in + t * kN * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
    const float* f = layer + t * width;
    for (int i = 0; i < kN; ++i) {
      const float* g = g0 + i * width;
      float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s)
      for (int64_t c = 0; c < width; ++c) {
        s0 += g[c] * x0[c];
        s1 += g[c] * x1[c];
        s2 += g[c] * x2[c];
        s3 += g[c] * x3[c];
        s += g[c] * f[c];
      }
      float* to = dmix + (t * kN + i) * kN;
      to[0] = s0;
      to[1] = s1;
      to[2] = s2;
      to[3] = s3;
      dw[t * kN + i] = s;
    }
  });
}

void HyperEnterGradFast(Stream& stream, const HyperOptions& options, const Tensor& dout,
                        const Tensor& dh, const Tensor& dres, const Tensor& dpost, const Tensor& x,
                        const Tensor& phi, const Tensor& alpha, const Tensor& b, const Tensor& r,
                        const Tensor& m, const Tensor& pre, const Tensor& res, Tensor& dx,
                        Tensor& dphi, Tensor& dalpha, Tensor& db) {
  if (!Fits(x))
    return HyperEnterGrad(stream, options, dout, dh, dres, dpost, x, phi, alpha, b, r, m, pre, res,
                          dx, dphi, dalpha, db);
  const int64_t tokens = x.dim(0), flat = x.dim(1) * x.dim(2);
  Tensor du = Tensor::Empty(stream, DType::kF32, {tokens, kMixes});
  std::vector<float> factor(static_cast<size_t>(tokens)), dpre(static_cast<size_t>(tokens * kN));
  StreamDots(dh, x, dpre.data());
  const float *mix = m.data<float>(), *gains = alpha.data<float>(), *root = r.data<float>();
  ChunkSums<double> sums(tokens, 3 + kMixes);  // dalpha, db
  ForChunks(tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
    BlockSinkhorn sinkhorn(options.sinkhorn_iterations, options.eps, true);
    BlockArguments a;
    ForBlocks(begin, end, [&](int64_t first, int64_t count) {
      a.Load(mix + first * kMixes, count, gains, b.data<float>());
      BlockGrad(options, sinkhorn, dpre.data() + first * kN, dpost.data<float>() + first * kN,
                dres.data<float>() + first * kN * kN, count, a);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t t = first + k;
        factor[static_cast<size_t>(t)] =
            FinishToken(a.z, k, mix + t * kMixes, gains, root[t], flat, sums.row(chunk),
                        du.data<float>() + t * kMixes);
      }
    });
  });
  std::vector<double> total(static_cast<size_t>(3 + kMixes));
  sums.AddTo(total.data());
  for (int64_t i = 0; i < 3 + kMixes; ++i) {
    float& to = i < 3 ? dalpha.data<float>()[i] : db.data<float>()[i - 3];
    to += static_cast<float>(total[static_cast<size_t>(i)]);
  }
  Tensor dflat = Flatten(dx);
  Matmul(stream, du, Trans::kNo, phi, Trans::kYes, {}, dflat);
  Matmul(stream, Flatten(x), Trans::kYes, du, Trans::kNo, dphi, dphi);
  AddToStreams(x, factor, dh, pre, dout, res, dx);
}

}  // namespace mneme::cpu
