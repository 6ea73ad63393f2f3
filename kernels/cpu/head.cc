#include "kernels/ops/head.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/scalar.h"

namespace mneme::cpu {
namespace {

template <class T>
double Dot(int64_t n, const T* a, const T* b) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Turns one token's logits into its probabilities; returns its loss.
double Softmax(int64_t vocab, int64_t target, double* logits) {
  const double most = *std::max_element(logits, logits + vocab);
  const double at_target = logits[target];
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += logits[v] = std::exp(logits[v] - most);
  for (int64_t v = 0; v < vocab; ++v) logits[v] /= sum;
  return std::log(sum) + most - at_target;
}

}  // namespace

void HeadLoss(Stream& stream, const Tensor& x, const Tensor& w, const Tensor& targets,
              const Tensor& scale, Tensor& losses, Tensor& dx, Tensor& dw) {
  const int64_t tokens = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t vocab = w.dim(0);
  CHECK_EQ(w.dim(1), width);
  CHECK_EQ(targets.elements(), tokens);
  CHECK_EQ(losses.elements(), tokens);
  const bool gradient = dx.defined();
  const double factor = gradient ? Scalar(scale) : 0;
  Tensor row = Tensor::Empty(stream, DType::kF64, {vocab}, MemoryTag::kWorkspace);
  double* logits = row.data<double>();
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* ws = w.data<T>();
    const int32_t* target = targets.data<int32_t>();
    if (gradient) std::fill_n(dx.data<T>(), tokens * width, T{0});
    for (int64_t t = 0; t < tokens; ++t) {
      losses.data<T>()[t] = 0;
      if (target[t] < 0) continue;
      CHECK_LT(int64_t{target[t]}, vocab);
      const T* xt = x.data<T>() + t * width;
      ParallelFor(vocab, RowGrain(width), [=](int64_t begin, int64_t end) {
        for (int64_t v = begin; v < end; ++v) logits[v] = Dot(width, xt, ws + v * width);
      });
      losses.data<T>()[t] = static_cast<T>(Softmax(vocab, target[t], logits));
      if (!gradient) continue;
      logits[target[t]] -= 1;
      T* dxt = dx.data<T>() + t * width;
      T* dws = dw.data<T>();
      for (int64_t v = 0; v < vocab; ++v) {
        const T d = static_cast<T>(factor * logits[v]);
        for (int64_t i = 0; i < width; ++i) {
          dxt[i] += d * ws[v * width + i];
          dws[v * width + i] += d * xt[i];
        }
      }
    }
  });
}

}  // namespace mneme::cpu
