#include "kernels/ops/update.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/scalar.h"
#include "kernels/ops/elementwise.h"

namespace mneme::cpu {
namespace {

struct StepValues {
  double rate, bias1, bias2, clip;
  bool apply;
};

StepValues ReadStep(const Tensor& step) {
  CHECK_EQ(step.elements(), int64_t{kStepScalars});
  return {Scalar(step, kStepRate), Scalar(step, kStepBias1), Scalar(step, kStepBias2),
          Scalar(step, kStepClip), Scalar(step, kStepApply) != 0};
}

// One element of AdamW. A second moment below the smallest normal number is held at that number
// inside the root: flushed to zero it would turn a gradient of 1e-19 into a step of fifty times the
// rate.
template <class T>
void AdamElement(const AdamOptions& o, const StepValues& s, T g, T& m, T& v, T& p) {
  const double grad = s.clip * g;
  m = static_cast<T>(o.beta1 * m + (1 - o.beta1) * grad);
  v = static_cast<T>(o.beta2 * v + (1 - o.beta2) * grad * grad);
  const double floor = std::numeric_limits<T>::min();
  const double root = std::sqrt(std::max<double>(v, floor) / s.bias2);
  p = static_cast<T>(p - s.rate * o.rate_mult * (m / s.bias1 / (root + o.eps) + o.decay * p));
}

// Whether x X^T is the smaller Gram matrix; else X^T X stands in, which transposes nothing.
bool Wide(const Tensor& x) { return x.dim(0) <= x.dim(1); }

template <class T>
void NewtonSchulzOf(Stream& stream, const NewtonSchulzOptions& o, Tensor x) {
  const int64_t n = std::min(x.dim(0), x.dim(1));
  const Trans side = Wide(x) ? Trans::kNo : Trans::kYes;
  const int64_t rows = x.dim(0);
  const int64_t cols = x.dim(1);
  Tensor gram = Tensor::Empty(stream, x.dtype(), {n, n}, MemoryTag::kWorkspace);
  Tensor poly = Tensor::Empty(stream, x.dtype(), {n, n}, MemoryTag::kWorkspace);
  Tensor next = Tensor::Empty(stream, x.dtype(), x.shape(), MemoryTag::kWorkspace);
  T* a = gram.data<T>();
  T* b = poly.data<T>();
  T* xs = x.data<T>();
  double sum = 0;
  for (int64_t i = 0; i < x.elements(); ++i) sum += static_cast<double>(xs[i]) * xs[i];
  const T inverse = static_cast<T>(1 / (std::sqrt(sum) + o.eps));
  for (int64_t i = 0; i < x.elements(); ++i) xs[i] *= inverse;
  for (int64_t step = 0; step < o.steps; ++step) {
    Gram<T>(side, n, std::max(rows, cols), T{1}, xs, cols, a);  // A
    Gram<T>(Trans::kNo, n, n, static_cast<T>(o.c), a, n, b);    // c A², A being symmetric
    for (int64_t i = 0; i < n * n; ++i) b[i] += static_cast<T>(o.b) * a[i];
    std::copy(xs, xs + x.elements(), next.data<T>());
    if (side == Trans::kNo) {
      Gemm<T>(Trans::kNo, Trans::kNo, rows, cols, n, T{1}, b, n, next.data<T>(), cols,
              static_cast<T>(o.a), xs, cols);
    } else {
      Gemm<T>(Trans::kNo, Trans::kNo, rows, cols, n, T{1}, next.data<T>(), cols, b, n,
              static_cast<T>(o.a), xs, cols);
    }
  }
}

// One matrix of x, or x itself.
Tensor Matrix(const Tensor& x, int64_t index) {
  return x.shape().rank() == 2 ? x : x.Rows(index, index + 1).Reshape({x.dim(1), x.dim(2)});
}

// total[0] += Σ f(x). Fixed pieces, each summed by one thread, then added in order: the sum does
// not depend on the team.
template <class F>
void AddUp(Stream& stream, const Tensor& x, Tensor& total, F f) {
  constexpr int64_t kPiece = 65536;
  const int64_t n = x.elements();
  const int64_t pieces = (n + kPiece - 1) / kPiece;
  Tensor partial = Tensor::Empty(stream, DType::kF64, {pieces}, MemoryTag::kWorkspace);
  double* parts = partial.data<double>();
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* xs = x.data<T>();
    ParallelFor(pieces, 1, [=](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        double s = 0;
        const int64_t last = std::min(n, (piece + 1) * kPiece);
        for (int64_t i = piece * kPiece; i < last; ++i) s += f(static_cast<double>(xs[i]));
        parts[piece] = s;
      }
    });
  });
  double* to = total.data<double>();
  for (int64_t piece = 0; piece < pieces; ++piece) *to += parts[piece];
}

// Calls f(run, elements of the runs before it). REQUIRES: they lie in `region` elements and are
// `packed` together.
template <class F>
void EachRun(FlatRuns runs, int64_t region, int64_t packed, const F& f) {
  int64_t before = 0;
  for (const FlatRun& run : runs) {
    CHECK_LE(0, run.at);
    CHECK_LE(run.at + run.count, region);
    f(run, before);
    before += run.count;
  }
  CHECK_EQ(before, packed);
}

}  // namespace

void AdamW(Stream& stream, const AdamOptions& options, const Tensor& step, const Tensor& g,
           Tensor& m, Tensor& v, Tensor& p, Tensor& copy) {
  const StepValues s = ReadStep(step);
  if (!s.apply) return;
  CHECK_EQ(g.elements(), p.elements());
  CHECK_EQ(m.elements(), p.elements());
  CHECK_EQ(v.elements(), p.elements());
  DispatchReal(p.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* gs = g.data<T>();
    T* ms = m.data<T>();
    T* vs = v.data<T>();
    T* ps = p.data<T>();
    ParallelFor(p.elements(), kElementGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) AdamElement<T>(options, s, gs[i], ms[i], vs[i], ps[i]);
    });
  });
  if (copy.defined()) Cast(stream, p, copy);
}

void AdamRows(Stream&, const AdamOptions& options, const Tensor& step, const Tensor& g,
              const Tensor& slots, Tensor& m, Tensor& v, Tensor& p) {
  const StepValues s = ReadStep(step);
  const int64_t n = slots.elements();
  if (!s.apply || n == 0) return;
  const int64_t rows = p.dim(0);
  const int64_t width = p.elements() / rows;
  CHECK_EQ(g.elements(), n * width);
  CHECK_EQ(m.elements(), p.elements());
  CHECK_EQ(v.elements(), p.elements());
  DispatchReal(p.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* gs = g.data<T>();
    const int64_t* slot = slots.data<int64_t>();
    T* ms = m.data<T>();
    T* vs = v.data<T>();
    T* ps = p.data<T>();
    ParallelFor(n, RowGrain(width), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        CHECK_LE(0, slot[i]);
        CHECK_LT(slot[i], rows);
        for (int64_t j = 0; j < width; ++j) {
          const int64_t at = slot[i] * width + j;
          AdamElement<T>(options, s, gs[i * width + j], ms[at], vs[at], ps[at]);
        }
      }
    });
  });
}

void MuonMomentum(Stream&, double momentum, bool nesterov, const Tensor& step, FlatRuns runs,
                  const Tensor& g, Tensor& buf, Tensor& u) {
  const StepValues s = ReadStep(step);
  CHECK_EQ(g.elements(), buf.elements());
  DispatchReal(u.dtype(), [&](auto real) {
    using T = decltype(real);
    const T mu = static_cast<T>(momentum);
    const T clip = static_cast<T>(s.clip);
    EachRun(runs, g.elements(), u.elements(), [&](const FlatRun& run, int64_t before) {
      const T* gs = g.data<T>() + run.at;
      T* bufs = buf.data<T>() + run.at;
      T* us = u.data<T>() + before;
      ParallelFor(run.count, kElementGrain, [=](int64_t begin, int64_t end) {
        if (!s.apply) {
          std::fill(us + begin, us + end, T{0});
          return;
        }
        for (int64_t i = begin; i < end; ++i) {
          const T grad = clip * gs[i];
          const T now = mu * bufs[i] + grad;
          bufs[i] = now;
          us[i] = nesterov ? grad + mu * now : now;
        }
      });
    });
  });
}

void NewtonSchulz(Stream& stream, const NewtonSchulzOptions& options, Tensor& x) {
  const int rank = x.shape().rank();
  CHECK(rank == 2 || rank == 3);
  FlushDenormals();
  const int64_t matrices = rank == 2 ? 1 : x.dim(0);
  DispatchReal(x.dtype(), [&](auto real) {
    for (int64_t i = 0; i < matrices; ++i) {
      NewtonSchulzOf<decltype(real)>(stream, options, Matrix(x, i));
    }
  });
}

void MuonApply(Stream& stream, double scale, double decay, const Tensor& step, FlatRuns runs,
               const Tensor& o, Tensor& p, Tensor& copy) {
  const StepValues s = ReadStep(step);
  if (!s.apply) return;
  DispatchReal(p.dtype(), [&](auto real) {
    using T = decltype(real);
    const T keep = static_cast<T>(1 - s.rate * decay);
    const T move = static_cast<T>(s.rate * scale);
    EachRun(runs, p.elements(), o.elements(), [&](const FlatRun& run, int64_t before) {
      const T* os = o.data<T>() + before;
      T* ps = p.data<T>() + run.at;
      ParallelFor(run.count, kElementGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ps[i] = keep * ps[i] - move * os[i];
      });
      if (!copy.defined()) return;
      Tensor rounded = copy.Flat(run.at, run.at + run.count);
      Cast(stream, p.Flat(run.at, run.at + run.count), rounded);
    });
  });
}

void SumSquares(Stream& stream, const Tensor& x, Tensor& sum) {
  AddUp(stream, x, sum, [](double value) { return value * value; });
}

void Sum(Stream& stream, const Tensor& x, Tensor& total) {
  AddUp(stream, x, total, [](double value) { return value; });
}

}  // namespace mneme::cpu
