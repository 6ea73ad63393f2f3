// Composed of other ops, on copies of the two parts.
#include "kernels/ops/latent.h"

#include <algorithm>

#include "kernels/cpu/fast.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/ops/rope.h"

namespace mneme::cpu {
namespace {

// Columns [begin, begin + part's) of the rows of `whole` to part, or from it.
template <class T>
void Columns(const T* whole, int64_t whole_width, int64_t begin, Tensor& part) {
  const int64_t width = part.dim(1);
  T* to = part.data<T>();
  ParallelFor(part.dim(0), RowGrain(width), [=](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      std::copy_n(whole + r * whole_width + begin, width, to + r * width);
    }
  });
}
template <class T>
void PutColumns(const Tensor& part, int64_t begin, int64_t whole_width, T* whole) {
  const int64_t width = part.dim(1);
  const T* from = part.data<T>();
  ParallelFor(part.dim(0), RowGrain(width), [=](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      std::copy_n(from + r * width, width, whole + r * whole_width + begin);
    }
  });
}

}  // namespace

void Latent(Stream& stream, const Tensor& x, const Tensor& w, double eps, const Tensor& table,
            const Tensor& positions, Tensor& normed, Tensor& rotary, Tensor& rstd) {
  const int64_t tokens = x.dim(0);
  const int64_t width = normed.dim(1);
  CHECK_EQ(x.dim(1), width + rotary.dim(1));
  Tensor latent = Tensor::Empty(stream, x.dtype(), normed.shape(), MemoryTag::kWorkspace);
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    Columns<T>(x.data<T>(), x.dim(1), 0, latent);
    Columns<T>(x.data<T>(), x.dim(1), width, rotary);
  });
  RmsNormFast(stream, latent, w, eps, normed, rstd);
  Tensor turned = rotary.Reshape({tokens, 1, rotary.dim(1)});
  Rope(stream, turned, 0, table, positions, false);
}

void LatentGrad(Stream& stream, const Tensor& dnormed, const Tensor& drotary, const Tensor& x,
                const Tensor& w, const Tensor& rstd, const Tensor& table, const Tensor& positions,
                Tensor& dx, Tensor& dw) {
  const int64_t tokens = x.dim(0);
  const int64_t width = dnormed.dim(1);
  CHECK_EQ(dx.shape(), x.shape());
  CHECK_EQ(x.dim(1), width + drotary.dim(1));
  const auto empty = [&](const Tensor& like) {
    return Tensor::Empty(stream, x.dtype(), like.shape(), MemoryTag::kWorkspace);
  };
  Tensor latent = empty(dnormed), dlatent = empty(dnormed), turned = empty(drotary);
  DispatchReal(x.dtype(), [&](auto real) {
    using T = decltype(real);
    Columns<T>(x.data<T>(), x.dim(1), 0, latent);
    Columns<T>(drotary.data<T>(), drotary.dim(1), 0, turned);
    RmsNormGradFast(stream, dnormed, latent, w, rstd, {}, dlatent, dw);
    Tensor back = turned.Reshape({tokens, 1, turned.dim(1)});
    Rope(stream, back, 0, table, positions, true);
    PutColumns<T>(dlatent, 0, dx.dim(1), dx.data<T>());
    PutColumns<T>(turned, width, dx.dim(1), dx.data<T>());
  });
}

}  // namespace mneme::cpu
