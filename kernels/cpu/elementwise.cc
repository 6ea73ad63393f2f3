#include "kernels/ops/elementwise.h"

#include <cstring>

#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/scalar.h"

namespace mneme::cpu {
namespace {

template <class T>
void FillWith(double value, Tensor& x) {
  T* xs = x.data<T>();
  const T v = static_cast<T>(value);
  ParallelFor(x.elements(), kElementGrain,
              [=](int64_t begin, int64_t end) { std::fill(xs + begin, xs + end, v); });
}

}  // namespace

void Fill(Stream&, double value, Tensor& x) {
  switch (x.dtype()) {
    case DType::kF32:
      return FillWith<float>(value, x);
    case DType::kF64:
      return FillWith<double>(value, x);
    case DType::kU8:
      return FillWith<uint8_t>(value, x);
    case DType::kI32:
      return FillWith<int32_t>(value, x);
    case DType::kI64:
      return FillWith<int64_t>(value, x);
    case DType::kBf16:
      CHECK(x.dtype() != DType::kBf16);
  }
}

void Copy(Stream&, const Tensor& x, Tensor& y) {
  CHECK_EQ(Name(x.dtype()), Name(y.dtype()));
  CHECK_EQ(x.elements(), y.elements());
  const char* from = static_cast<const char*>(x.raw());
  char* to = static_cast<char*>(y.raw());
  ParallelFor(x.bytes(), kElementGrain * 4, [=](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

void Cast(Stream&, const Tensor& x, Tensor& y) {
  CHECK_EQ(x.elements(), y.elements());
  DispatchReal(x.dtype(), [&](auto from) {
    DispatchReal(y.dtype(), [&](auto to) {
      const auto* xs = x.data<decltype(from)>();
      auto* ys = y.data<decltype(to)>();
      ParallelFor(x.elements(), kElementGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ys[i] = static_cast<decltype(to)>(xs[i]);
      });
    });
  });
}

void Add(Stream&, const Tensor& x, Tensor& y) {
  CHECK_EQ(x.elements(), y.elements());
  DispatchReal(y.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* xs = x.data<T>();
    T* ys = y.data<T>();
    ParallelFor(y.elements(), kElementGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ys[i] += xs[i];
    });
  });
}

void Scale(Stream&, const Tensor& factor, Tensor& x) {
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const T by = static_cast<T>(Scalar(factor));
    T* xs = x.data<T>();
    ParallelFor(x.elements(), kElementGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) xs[i] *= by;
    });
  });
}

}  // namespace mneme::cpu
