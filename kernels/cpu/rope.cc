#include "kernels/ops/rope.h"

#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {

void Rope(Stream&, Tensor& x, int64_t begin, const Tensor& table, const Tensor& positions,
          bool inverse) {
  CHECK_EQ(x.shape().rank(), 3);
  const int64_t tokens = x.dim(0);
  const int64_t heads = x.dim(1);
  const int64_t width = x.dim(2);
  const int64_t pairs = table.dim(1);
  CHECK_LE(begin + 2 * pairs, width);
  CHECK_EQ(positions.elements(), tokens);
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* angles = table.data<T>();
    const int32_t* at = positions.data<int32_t>();
    const int64_t table_rows = table.dim(0);
    T* xs = x.data<T>();
    ParallelFor(tokens, RowGrain(heads * width), [=](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        CHECK_GE(at[t], 0);
        CHECK_LT(at[t], table_rows);
        const T* turn = angles + at[t] * pairs * 2;
        for (int64_t h = 0; h < heads; ++h) {
          T* v = xs + (t * heads + h) * width + begin;
          for (int64_t i = 0; i < pairs; ++i) {
            const T c = turn[2 * i];
            const T s = inverse ? -turn[2 * i + 1] : turn[2 * i + 1];
            const T re = v[2 * i];
            const T im = v[2 * i + 1];
            v[2 * i] = re * c - im * s;
            v[2 * i + 1] = re * s + im * c;
          }
        }
      }
    });
  });
}

}  // namespace mneme::cpu
