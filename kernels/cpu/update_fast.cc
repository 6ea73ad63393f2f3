// AdamW in one pass and in floats, and the sum of squares in four double lanes. Both are bound by
// memory.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/fast.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/scalar.h"
#include "kernels/ops/elementwise.h"

namespace mneme::cpu {
namespace {

// The formula of AdamElement in update.cc with its divisions by step scalars taken out of the loop.
struct AdamFloats {
  float beta1, rest1, beta2, rest2;  // β and clip · (1 − β), clip² · (1 − β)
  float inverse1, inverse2, eps, rate, keep;

  AdamFloats(const AdamOptions& o, const Tensor& step) {
    const double clip = Scalar(step, kStepClip);
    const double by = Scalar(step, kStepRate) * o.rate_mult;
    beta1 = static_cast<float>(o.beta1);
    rest1 = static_cast<float>((1 - o.beta1) * clip);
    beta2 = static_cast<float>(o.beta2);
    rest2 = static_cast<float>((1 - o.beta2) * clip * clip);
    inverse1 = static_cast<float>(1 / Scalar(step, kStepBias1));
    inverse2 = static_cast<float>(1 / Scalar(step, kStepBias2));
    eps = static_cast<float>(o.eps);
    rate = static_cast<float>(by);
    keep = static_cast<float>(1 - by * o.decay);
  }

  void Update(int64_t n, const float* __restrict g, float* __restrict m, float* __restrict v,
              float* __restrict p) const {
    constexpr float kFloor = std::numeric_limits<float>::min();
    const AdamFloats k = *this;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float first = k.beta1 * m[i] + k.rest1 * g[i];
      const float second = k.beta2 * v[i] + k.rest2 * g[i] * g[i];
      m[i] = first;
      v[i] = second;
      const float root = std::sqrt((second < kFloor ? kFloor : second) * k.inverse2);
      p[i] = k.keep * p[i] - k.rate * (first * k.inverse1 / (root + k.eps));
    }
  }
};

bool Applies(const Tensor& step) {
  CHECK_EQ(step.elements(), int64_t{kStepScalars});
  return Scalar(step, kStepApply) != 0;
}

}  // namespace

void AdamWFast(Stream& stream, const AdamOptions& options, const Tensor& step, const Tensor& g,
               Tensor& m, Tensor& v, Tensor& p, Tensor& copy) {
  if (p.dtype() != DType::kF32) return AdamW(stream, options, step, g, m, v, p, copy);
  if (!Applies(step)) return;
  CHECK_EQ(g.elements(), p.elements());
  CHECK_EQ(m.elements(), p.elements());
  CHECK_EQ(v.elements(), p.elements());
  const AdamFloats adam(options, step);
  const float* gs = g.data<float>();
  float* ms = m.data<float>();
  float* vs = v.data<float>();
  float* ps = p.data<float>();
  ParallelFor(p.elements(), kElementGrain, [=](int64_t begin, int64_t end) {
    adam.Update(end - begin, gs + begin, ms + begin, vs + begin, ps + begin);
  });
  if (copy.defined()) Cast(stream, p, copy);
}

void AdamRowsFast(Stream& stream, const AdamOptions& options, const Tensor& step, const Tensor& g,
                  const Tensor& slots, Tensor& m, Tensor& v, Tensor& p) {
  if (p.dtype() != DType::kF32) return AdamRows(stream, options, step, g, slots, m, v, p);
  const int64_t n = slots.elements();
  if (!Applies(step) || n == 0) return;
  const int64_t rows = p.dim(0);
  const int64_t width = p.elements() / rows;
  CHECK_EQ(g.elements(), n * width);
  CHECK_EQ(m.elements(), p.elements());
  CHECK_EQ(v.elements(), p.elements());
  const AdamFloats adam(options, step);
  const int64_t* slot = slots.data<int64_t>();
  const float* gs = g.data<float>();
  float* ms = m.data<float>();
  float* vs = v.data<float>();
  float* ps = p.data<float>();
  ParallelFor(n, RowGrain(width), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      CHECK_LE(0, slot[i]);
      CHECK_LT(slot[i], rows);
      const int64_t at = slot[i] * width;
      adam.Update(width, gs + i * width, ms + at, vs + at, ps + at);
    }
  });
}

// Pieces and their order as in the plain version.
void SumSquaresFast(Stream& stream, const Tensor& x, Tensor& sum) {
  if (x.dtype() != DType::kF32) return SumSquares(stream, x, sum);
  constexpr int64_t kPiece = 65536;
  const int64_t n = x.elements();
  const int64_t pieces = (n + kPiece - 1) / kPiece;
  Tensor partial = Tensor::Empty(stream, DType::kF64, {pieces}, MemoryTag::kWorkspace);
  double* parts = partial.data<double>();
  const float* xs = x.data<float>();
  ParallelFor(pieces, 1, [=](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const float* part = xs + piece * kPiece;
      const int64_t count = std::min(n - piece * kPiece, kPiece);
      double s = 0;
#pragma omp simd reduction(+ : s)
      for (int64_t i = 0; i < count; ++i) {
        const double value = part[i];
        s += value * value;
      }
      parts[piece] = s;
    }
  });
  double* total = sum.data<double>();
  for (int64_t piece = 0; piece < pieces; ++piece) *total += parts[piece];
}

}  // namespace mneme::cpu
