// Head and loss a chunk of tokens at a time: logits, softmax and their gradient share one buffer.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/scalar.h"

namespace mneme::cpu {
namespace {

constexpr int64_t kChunk = 256;  // tokens
constexpr int64_t kPiece =
    2048;  // terms summed in the run's own type before they join a sum in double

template <class T>
T Largest(const T* x, int64_t n) {
  T most = x[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// Σ e^(x − shift); where `keep`, x holds the terms afterwards.
template <class T, bool keep>
double SumExp(T* x, int64_t n, T shift) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = std::min(n, begin + kPiece);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const T e = Exp(x[i] - shift);
      if constexpr (keep) x[i] = e;
      sum += e;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

// One token's row of logits: returns its loss; where `gradient`, the row becomes factor · (softmax
// − target).
template <class T>
T LossRow(T* row, int64_t vocab, int64_t target, bool gradient, double factor) {
  const T most = Largest(row, vocab);
  const double at_target = static_cast<double>(row[target]);
  const double sum =
      gradient ? SumExp<T, true>(row, vocab, most) : SumExp<T, false>(row, vocab, most);
  if (gradient) {
    const T share = static_cast<T>(factor / sum);
#pragma omp simd
    for (int64_t v = 0; v < vocab; ++v) row[v] *= share;
    row[target] -= static_cast<T>(factor);
  }
  return static_cast<T>(std::log(sum) + (static_cast<double>(most) - at_target));
}

}  // namespace

void HeadLossFast(Stream& stream, const Tensor& x, const Tensor& w, const Tensor& targets,
                  const Tensor& scale, Tensor& losses, Tensor& dx, Tensor& dw) {
  const int64_t tokens = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t vocab = w.dim(0);
  CHECK_EQ(w.dim(1), width);
  CHECK_EQ(targets.elements(), tokens);
  CHECK_EQ(losses.elements(), tokens);
  const bool gradient = dx.defined();
  const double factor = gradient ? Scalar(scale) : 0;
  const int32_t* target = targets.data<int32_t>();
  Tensor buffer =
      Tensor::Empty(stream, x.dtype(), {std::min(tokens, kChunk), vocab}, MemoryTag::kWorkspace);
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    T* logits = buffer.data<T>();
    T* loss = losses.data<T>();
    for (int64_t begin = 0; begin < tokens; begin += kChunk) {
      const int64_t n = std::min(kChunk, tokens - begin);
      const T* xs = x.data<T>() + begin * width;
      Gemm<T>(Trans::kNo, Trans::kYes, n, vocab, width, T{1}, xs, width, w.data<T>(), width, T{0},
              logits, vocab);
      ParallelFor(n, RowGrain(vocab), [=](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
          const int64_t wanted = target[begin + t];
          T* row = logits + t * vocab;
          loss[begin + t] = 0;
          if (wanted < 0) {
            std::fill_n(row, vocab, T{0});
            continue;
          }
          CHECK_LT(wanted, vocab);
          loss[begin + t] = LossRow<T>(row, vocab, wanted, gradient, factor);
        }
      });
      if (!gradient) continue;
      Gemm<T>(Trans::kNo, Trans::kNo, n, width, vocab, T{1}, logits, vocab, w.data<T>(), width,
              T{0}, dx.data<T>() + begin * width, width);
      Gemm<T>(Trans::kYes, Trans::kNo, vocab, width, n, T{1}, logits, vocab, xs, width, T{1},
              dw.data<T>(), width);
    }
  });
}

}  // namespace mneme::cpu
