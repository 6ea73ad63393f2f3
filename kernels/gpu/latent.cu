// The latent of keys and values, normed, and the positional key, turned; and their gradient. Bound
// by memory: one pass over rows of L + R elements, a warp a row, the norm as in norm.cu. Widths
// that are not whole vectors of 16 bytes, or more than a warp holds, are taken apart by copies and
// go through the ops of the parts.
// Floor: T · (L + R) elements read and written forward, and once more L + R read backward, over the
// copy bandwidth; at the sweep shape (T 32,768, L 256, R 32) 38 and 57 MB in bf16.
// Measured on an H100 inside a step: 18 and 36 us, 2.1 and 1.6 TB/s.
#include <algorithm>

#include "kernels/gpu/device/norm_rows.cuh"
#include "kernels/gpu/device/parts.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/latent.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/rope.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// Of the gradient, on one multiprocessor: as many as registers allow, since a row's loads wait for
// each other (position, then angles).
template <int kN>
inline constexpr int kResident = kN == 1 ? 4 : 2;
// A constant, so that the bits of a sum depend on the shape alone.
constexpr int64_t kMultiprocessors = 132;

struct Rows {
  int64_t rows;
  int latent;  // L
  int rotary;  // R
  float eps;
};

// R elements of `from`, turned by the angles at `turn` (cos, sin), to `to`; sign −1 turns back.
template <class A>
__device__ __forceinline__ void Turn(const A* from, const float* turn, float sign, int width,
                                     int lane, A* to) {
  constexpr int kV = kVec<A>;
  for (int column = lane * kV; column < width; column += kWarp * kV) {
    float v[kV], out[kV];
    LoadFloats<kV>(from + column, v);
#pragma unroll
    for (int i = 0; i < kV; i += 4) {
      const float4 two = *reinterpret_cast<const float4*>(turn + column + i);
      out[i] = v[i] * two.x - v[i + 1] * sign * two.y;
      out[i + 1] = v[i] * sign * two.y + v[i + 1] * two.x;
      out[i + 2] = v[i + 2] * two.z - v[i + 3] * sign * two.w;
      out[i + 3] = v[i + 2] * sign * two.w + v[i + 3] * two.z;
    }
    StoreFloats<kV>(to + column, out);
  }
}

template <class A, int kN>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(const A* x, const float* w, const float* table, const int32_t* positions, Rows a,
                  A* normed, A* rotary, float* rstd) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= a.rows) return;
  const int lane = threadIdx.x % kWarp;
  const A* from = x + row * (a.latent + a.rotary);
  NormRow<A, kN> v;
  v.Load(from, a.latent, lane);
  Turn(from + a.latent, table + int64_t{positions[row]} * a.rotary, 1.0f, a.rotary, lane,
       rotary + row * a.rotary);
  const float sum = WarpReduce(v.Squares(a.latent, lane));
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(a.latent) + a.eps);
  if (lane == 0) rstd[row] = scale;
  v.Store(scale, w, a.latent, lane, normed + row * a.latent);
}

template <class A, int kN>
__global__ void __launch_bounds__(kThreads, kResident<kN>)
    GradKernel(const A* dnormed, const A* drotary, const A* x, const float* w, const float* rstd,
               const float* table, const int32_t* positions, Rows a, A* dx, float* parts) {
  using Gradient = NormGradient<A, kN>;
  __shared__ float fold[kWarps * kN * kWarp * kVec<A>];
  const int lane = threadIdx.x % kWarp;
  const int width = a.latent + a.rotary;
  Gradient gradient(w, a.latent, lane);
  const auto load = [&](int64_t row, typename Gradient::Row& to) {
    to.x.Load(x + row * width, a.latent, lane);
    to.dy.Load(dnormed + row * a.latent, a.latent, lane);
    to.rstd = rstd[row];
  };
  const int64_t step = int64_t{gridDim.x} * kWarps;
  int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  typename Gradient::Row next;
  if (row < a.rows) load(row, next);
  for (; row < a.rows; row += step) {
    const typename Gradient::Row now = next;
    if (row + step < a.rows) load(row + step, next);
    Turn(drotary + row * a.rotary, table + int64_t{positions[row]} * a.rotary, -1.0f, a.rotary,
         lane, dx + row * width + a.latent);
    gradient.template Store<false>(now, dx + row * width);
  }
  gradient.template Finish<kWarps>(fold, parts + int64_t{blockIdx.x} * a.latent);
}

// Columns [begin, begin + columns) of rows of `from` to columns [to_begin, ..) of rows of `to`.
void CopyColumns(Stream& stream, const Tensor& from, int64_t begin, int64_t columns, Tensor& to,
                 int64_t to_begin) {
  const auto size = static_cast<size_t>(SizeOf(from.dtype()));
  const auto bytes = [size](int64_t elements) { return static_cast<size_t>(elements) * size; };
  Check(cudaMemcpy2DAsync(static_cast<char*>(to.raw()) + bytes(to_begin), bytes(to.dim(1)),
                          static_cast<const char*>(from.raw()) + bytes(begin), bytes(from.dim(1)),
                          bytes(columns), static_cast<size_t>(from.dim(0)),
                          cudaMemcpyDeviceToDevice, QueueOf(stream).stream));
}

Tensor Workspace(Stream& stream, const Tensor& like) {
  return Tensor::Empty(stream, like.dtype(), like.shape(), MemoryTag::kWorkspace);
}

Tensor OneHead(const Tensor& rotary) { return rotary.Reshape({rotary.dim(0), 1, rotary.dim(1)}); }

// Calls f(constant kN) with the vectors that a lane holds of a latent; false where rows do not fit.
template <class A, class F>
bool Fits(const Rows& a, F&& f) {
  constexpr int kV = kVec<A>;
  if (a.latent % kV != 0 || a.rotary % kV != 0) return false;
  const int64_t vectors = CeilDiv(a.latent, kV * kWarp);
  if (vectors > 2) return false;
  if (vectors == 1) {
    f(std::integral_constant<int, 1>{});
  } else {
    f(std::integral_constant<int, 2>{});
  }
  return true;
}

Rows RowsOf(const Tensor& x, const Tensor& normed, const Tensor& rotary, const Tensor& w,
            const Tensor& table, const Tensor& positions, double eps) {
  CHECK_EQ(x.dim(1), normed.dim(1) + rotary.dim(1));
  CHECK_EQ(w.elements(), normed.dim(1));
  CHECK_EQ(2 * table.dim(1), rotary.dim(1));
  CHECK_EQ(positions.elements(), x.dim(0));
  return {x.dim(0), static_cast<int>(normed.dim(1)), static_cast<int>(rotary.dim(1)),
          static_cast<float>(eps)};
}

}  // namespace

void Latent(Stream& stream, const Tensor& x, const Tensor& w, double eps, const Tensor& table,
            const Tensor& positions, Tensor& normed, Tensor& rotary, Tensor& rstd) {
  const Rows a = RowsOf(x, normed, rotary, w, table, positions, eps);
  DispatchActivation(x.dtype(), [&](auto real) {
    using A = decltype(real);
    const bool done = Fits<A>(a, [&](auto n) {
      Launch(stream, ForwardKernel<A, n()>, dim3(static_cast<unsigned>(CeilDiv(a.rows, kWarps))),
             kThreads, 0, Data<A>(x), Data<float>(w), Data<float>(table), Data<int32_t>(positions),
             a, Data<A>(normed), Data<A>(rotary), Data<float>(rstd));
    });
    if (done) return;
    Tensor latent = Workspace(stream, normed);
    CopyColumns(stream, x, 0, a.latent, latent, 0);
    CopyColumns(stream, x, a.latent, a.rotary, rotary, 0);
    RmsNorm(stream, latent, w, eps, normed, rstd);
    Tensor turned = OneHead(rotary);
    Rope(stream, turned, 0, table, positions, false);
  });
}

void LatentGrad(Stream& stream, const Tensor& dnormed, const Tensor& drotary, const Tensor& x,
                const Tensor& w, const Tensor& rstd, const Tensor& table, const Tensor& positions,
                Tensor& dx, Tensor& dw) {
  const Rows a = RowsOf(x, dnormed, drotary, w, table, positions, 0);
  CHECK_EQ(dx.shape(), x.shape());
  DispatchActivation(x.dtype(), [&](auto real) {
    using A = decltype(real);
    const bool done = Fits<A>(a, [&](auto n) {
      const int64_t splits =
          std::clamp<int64_t>(CeilDiv(a.rows, kWarps), 1, kMultiprocessors * kResident<n()>);
      Tensor parts = Tensor::Empty(stream, DType::kF32, {splits, a.latent}, MemoryTag::kWorkspace);
      Launch(stream, GradKernel<A, n()>, dim3(static_cast<unsigned>(splits)), kThreads, 0,
             Data<A>(dnormed), Data<A>(drotary), Data<A>(x), Data<float>(w), Data<float>(rstd),
             Data<float>(table), Data<int32_t>(positions), a, Data<A>(dx), Data<float>(parts));
      AddParts(stream, Data<float>(parts), splits, dw.elements(), dw.elements(), Data<float>(dw));
    });
    if (done) return;
    Tensor latent = Workspace(stream, dnormed), dlatent = Workspace(stream, dnormed);
    CopyColumns(stream, x, 0, a.latent, latent, 0);
    RmsNormGrad(stream, dnormed, latent, w, rstd, {}, dlatent, dw);
    CopyColumns(stream, dlatent, 0, a.latent, dx, 0);
    Tensor back = Workspace(stream, drotary), turned = OneHead(back);
    CopyColumns(stream, drotary, 0, a.rotary, back, 0);
    Rope(stream, turned, 0, table, positions, true);
    CopyColumns(stream, back, 0, a.rotary, dx, a.latent);
  });
}

}  // namespace mneme::gpu
