#include "kernels/ops/norm.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"
#include "kernels/ops/elementwise.h"

namespace mneme::cpu {

void RmsNorm(Stream&, const Tensor& x, const Tensor& w, double eps, Tensor& y, Tensor& rstd) {
  const int64_t rows = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t branches = w.dim(0);
  CHECK_EQ(w.dim(1), width);
  CHECK_EQ(y.shape(), x.shape());
  CHECK_EQ(rstd.elements(), rows);
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* xs = x.data<T>();
    const T* ws = w.data<T>();
    T* ys = y.data<T>();
    T* rs = rstd.data<T>();
    ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* xr = xs + r * width;
        const T* wr = ws + (r % branches) * width;
        double sum = 0;
        for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(xr[i]) * xr[i];
        const double scale = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
        for (int64_t i = 0; i < width; ++i) {
          ys[r * width + i] = static_cast<T>(xr[i] * scale * wr[i]);
        }
        rs[r] = static_cast<T>(scale);
      }
    });
  });
}

// With n = x · rstd: dx = rstd · (w dy − n · mean(n w dy)), dw = Σ n dy.
void RmsNormGrad(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& w,
                 const Tensor& rstd, const Tensor& addend, Tensor& dx, Tensor& dw) {
  const int64_t rows = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t branches = w.dim(0);
  CHECK_EQ(dy.shape(), x.shape());
  CHECK_EQ(dx.shape(), x.shape());
  CHECK_EQ(dw.shape(), w.shape());
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* dys = dy.data<T>();
    const T* xs = x.data<T>();
    const T* ws = w.data<T>();
    const T* rs = rstd.data<T>();
    T* dxs = dx.data<T>();
    T* dws = dw.data<T>();
    ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* dyr = dys + r * width;
        const T* xr = xs + r * width;
        const T* wr = ws + (r % branches) * width;
        const double scale = rs[r];
        double dot = 0;
        for (int64_t i = 0; i < width; ++i) dot += xr[i] * scale * wr[i] * dyr[i];
        const double mean = dot / static_cast<double>(width);
        for (int64_t i = 0; i < width; ++i) {
          dxs[r * width + i] =
              static_cast<T>(scale * (static_cast<double>(wr[i]) * dyr[i] - xr[i] * scale * mean));
        }
      }
    });
    // A thread owns columns and walks the rows in order: the same sum whatever the team.
    ParallelFor(width, RowGrain(rows), [=](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < rows; ++r) {
        T* dwr = dws + (r % branches) * width;
        const T scale = rs[r];
        for (int64_t i = begin; i < end; ++i)
          dwr[i] += dys[r * width + i] * xs[r * width + i] * scale;
      }
    });
  });
  if (addend.defined()) Add(stream, addend, dx);
}

}  // namespace mneme::cpu
