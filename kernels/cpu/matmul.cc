#include "kernels/ops/matmul.h"

#include "kernels/cpu/gemm.h"
#include "kernels/ops/elementwise.h"

namespace mneme::cpu {
namespace {

// The groups' borders: rising, inside the rows that there are.
const int64_t* Borders(const Tensor& offsets, int64_t groups, int64_t rows) {
  CHECK_EQ(offsets.elements(), groups + 1);
  const int64_t* at = offsets.data<int64_t>();
  CHECK_GE(at[0], 0);
  for (int64_t e = 0; e < groups; ++e) CHECK_LE(at[e], at[e + 1]);
  CHECK_LE(at[groups], rows);
  return at;
}

}  // namespace

void Matmul(Stream& stream, const Tensor& a, Trans ta, const Tensor& b, Trans tb,
            const Tensor& addend, Tensor& c) {
  CHECK_EQ(a.shape().rank(), 2);
  CHECK_EQ(b.shape().rank(), 2);
  const bool turn_a = ta == Trans::kYes;
  const bool turn_b = tb == Trans::kYes;
  const int64_t m = a.dim(turn_a ? 1 : 0);
  const int64_t k = a.dim(turn_a ? 0 : 1);
  const int64_t n = b.dim(turn_b ? 0 : 1);
  CHECK_EQ(b.dim(turn_b ? 1 : 0), k);
  CHECK_EQ(c.shape(), (Shape{m, n}));
  const bool accumulates = addend.defined() && addend.raw() == c.raw();
  DispatchReal(c.dtype(), [&](auto real) {
    using T = decltype(real);
    Gemm<T>(ta, tb, m, n, k, T{1}, a.data<T>(), a.dim(1), b.data<T>(), b.dim(1),
            accumulates ? T{1} : T{0}, c.data<T>(), n);
  });
  if (addend.defined() && !accumulates) Add(stream, addend, c);
}

void GroupedMatmul(Stream&, const Tensor& a, const Tensor& b, Trans tb, const Tensor& offsets,
                   Tensor& c) {
  const int64_t groups = b.dim(0);
  const int64_t k = a.dim(1);
  const int64_t n = c.dim(1);
  CHECK_EQ(c.dim(0), a.dim(0));
  CHECK_EQ(b.dim(tb == Trans::kYes ? 2 : 1), k);
  CHECK_EQ(b.dim(tb == Trans::kYes ? 1 : 2), n);
  const int64_t* at = Borders(offsets, groups, a.dim(0));
  DispatchReal(c.dtype(), [&](auto real) {
    using T = decltype(real);
    for (int64_t e = 0; e < groups; ++e) {
      Gemm<T>(Trans::kNo, tb, at[e + 1] - at[e], n, k, T{1}, a.data<T>() + at[e] * k, k,
              b.data<T>() + e * k * n, b.dim(2), T{0}, c.data<T>() + at[e] * n, n);
    }
  });
}

void GroupedMatmulWeightGrad(Stream&, const Tensor& a, const Tensor& b, const Tensor& offsets,
                             Tensor& dw) {
  const int64_t groups = dw.dim(0);
  const int64_t m = a.dim(1);
  const int64_t n = b.dim(1);
  CHECK_EQ(dw.shape(), (Shape{groups, m, n}));
  CHECK_EQ(a.dim(0), b.dim(0));
  const int64_t* at = Borders(offsets, groups, a.dim(0));
  DispatchReal(dw.dtype(), [&](auto real) {
    using T = decltype(real);
    for (int64_t e = 0; e < groups; ++e) {
      Gemm<T>(Trans::kYes, Trans::kNo, m, n, at[e + 1] - at[e], T{1}, a.data<T>() + at[e] * m, m,
              b.data<T>() + at[e] * n, n, T{1}, dw.data<T>() + e * m * n, n);
    }
  });
}

}  // namespace mneme::cpu
