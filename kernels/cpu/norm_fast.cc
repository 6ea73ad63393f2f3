#include <cmath>

#include "kernels/cpu/fast.h"
#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {
namespace {

// dx of one row; as in the plain version. `addend` may be null.
void RowGrad(const float* dy, const float* x, const float* w, float rstd, const float* addend,
             int64_t width, float* dx) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < width; ++i) dot += x[i] * w[i] * dy[i];
  const float mean = dot * rstd * rstd / static_cast<float>(width);
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) dx[i] = rstd * (w[i] * dy[i] - x[i] * mean);
  if (addend == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) dx[i] += addend[i];
}

}  // namespace

void RmsNormFast(Stream& stream, const Tensor& x, const Tensor& w, double eps, Tensor& y,
                 Tensor& rstd) {
  if (x.dtype() != DType::kF32) return RmsNorm(stream, x, w, eps, y, rstd);
  const int64_t rows = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t branches = w.dim(0);
  CHECK_EQ(w.dim(1), width);
  CHECK_EQ(y.shape(), x.shape());
  CHECK_EQ(rstd.elements(), rows);
  const float* xs = x.data<float>();
  const float* ws = w.data<float>();
  float* ys = y.data<float>();
  float* rs = rstd.data<float>();
  ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* xr = xs + r * width;
      const float* wr = ws + (r % branches) * width;
      float* yr = ys + r * width;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < width; ++i) sum += xr[i] * xr[i];
      const float scale = static_cast<float>(
          1 / std::sqrt(static_cast<double>(sum) / static_cast<double>(width) + eps));
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) yr[i] = xr[i] * scale * wr[i];
      rs[r] = scale;
    }
  });
}

void RmsNormGradFast(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, const Tensor& addend, Tensor& dx, Tensor& dw) {
  if (x.dtype() != DType::kF32) return RmsNormGrad(stream, dy, x, w, rstd, addend, dx, dw);
  const int64_t rows = x.dim(0);
  const int64_t width = x.dim(1);
  const int64_t branches = w.dim(0);
  CHECK_EQ(dy.shape(), x.shape());
  CHECK_EQ(dx.shape(), x.shape());
  CHECK_EQ(dw.shape(), w.shape());
  const float* dys = dy.data<float>();
  const float* xs = x.data<float>();
  const float* ws = w.data<float>();
  const float* rs = rstd.data<float>();
  const float* other = addend.defined() ? addend.data<float>() : nullptr;
  float* dxs = dx.data<float>();
  float* dws = dw.data<float>();
  ParallelFor(rows, RowGrain(width), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      RowGrad(dys + r * width, xs + r * width, ws + (r % branches) * width, rs[r],
              other ? other + r * width : nullptr, width, dxs + r * width);
    }
  });
  // A thread owns columns and walks the rows in order: the same sum whatever the team.
  ParallelFor(width, RowGrain(rows), [=](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      float* dwr = dws + (r % branches) * width;
      const float* dyr = dys + r * width;
      const float* xr = xs + r * width;
      const float scale = rs[r];
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dwr[i] += dyr[i] * xr[i] * scale;
    }
  });
}

}  // namespace mneme::cpu
