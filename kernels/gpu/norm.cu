// RMSNorm and its gradient, bound by memory. Statistics and the gains' gradient in fp32.
//
// Forward: a warp a row, the row stays in registers between its sum of squares and its scaling.
// Gradient: w and its gradient stay in registers while rows go by. Rows of at most 64 vectors of 16
// bytes: a warp a row, the next row on its way meanwhile, no barrier. Wider ones: a group of
// threads owns columns, 16 bytes each, and walks over rows. Either way each block or group leaves
// one partial row of dw, and those are added in order. Rows that no group can hold go through a
// plain kernel, a block a row.
//
// Floor: R · D elements read and written forward, two read and one written backward; at the 27B
// shape (R 16,384, D 2,560) 168 and 252 MB in bf16. Measured on an H100: 97 and 91 % of that at the
// sweep shape (R 32,768, D 512), 96 and 79 % at the 27B shape.
#include "kernels/gpu/device/norm_rows.cuh"
#include "kernels/gpu/device/parts.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/norm.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostThreads = 512;  // of a gradient block
constexpr int kRows = 1;           // rows a gradient group takes at once
// What the gradient's grid aims at, one wave: constants, so that the parts of a sum, and with them
// its bits, depend on the shape alone.
constexpr int64_t kMultiprocessors = 132;
constexpr int64_t kResidentThreads = 1024;             // of one of them
constexpr int64_t kGradBlocks = kMultiprocessors * 2;  // where a warp takes a row

struct Rows {
  int64_t rows;
  int width;
  int branches;
  float eps;
};

__device__ __forceinline__ float RootMeanSquare(float sum, const Rows& a) {
  return 1.0f / sqrtf(sum / static_cast<float>(a.width) + a.eps);
}

// A warp a row.
template <class A, int kN>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(const A* x, const float* w, Rows a, A* y, float* rstd) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= a.rows) return;
  const int lane = threadIdx.x % kWarp;
  NormRow<A, kN> v;
  v.Load(x + row * a.width, a.width, lane);
  const float scale = RootMeanSquare(WarpReduce(v.Squares(a.width, lane)), a);
  if (lane == 0) rstd[row] = scale;
  v.Store(scale, w + row % a.branches * a.width, a.width, lane, y + row * a.width);
}

// A block a row of any width.
template <class A>
__global__ void __launch_bounds__(kThreads)
    ForwardPlainKernel(const A* x, const float* w, Rows a, A* y, float* rstd) {
  const int64_t row = blockIdx.x;
  const A* from = x + row * a.width;
  float sum = 0;
  for (int i = threadIdx.x; i < a.width; i += kThreads) sum += ToFloat(from[i]) * ToFloat(from[i]);
  const float scale = RootMeanSquare(BlockReduce(sum), a);
  if (threadIdx.x == 0) rstd[row] = scale;
  const float* gain = w + row % a.branches * a.width;
  for (int i = threadIdx.x; i < a.width; i += kThreads) {
    y[row * a.width + i] = FromFloat<A>(ToFloat(from[i]) * scale * gain[i]);
  }
}

// A warp a row of the branch blockIdx.y, the next one asked for while this one is computed.
template <class A, int kN, bool kAdds>
__global__ void __launch_bounds__(kThreads, 2)
    GradRowsKernel(const A* dy, const A* x, const float* w, const float* rstd, const A* addend,
                   Rows a, A* dx, float* parts) {
  using Gradient = NormGradient<A, kN>;
  __shared__ float fold[kWarps * kN * kWarp * kVec<A>];
  const int lane = threadIdx.x % kWarp;
  const int branch = blockIdx.y;
  Gradient gradient(w + int64_t{branch} * a.width, a.width, lane);
  const auto load = [&](int64_t row, typename Gradient::Row& to) {
    to.x.Load(x + row * a.width, a.width, lane);
    to.dy.Load(dy + row * a.width, a.width, lane);
    if constexpr (kAdds) to.addend.Load(addend + row * a.width, a.width, lane);
    to.rstd = rstd[row];
  };
  const int64_t step = int64_t{gridDim.x} * kWarps * a.branches;
  int64_t row = (int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp) * a.branches + branch;
  typename Gradient::Row next;
  if (row < a.rows) load(row, next);
  for (; row < a.rows; row += step) {
    const typename Gradient::Row now = next;
    if (row + step < a.rows) load(row + step, next);
    gradient.template Store<kAdds>(now, dx + row * a.width);
  }
  gradient.template Finish<kWarps>(fold,
                                   parts + (int64_t{blockIdx.x} * a.branches + branch) * a.width);
}

// With n = x · rstd: dx = rstd · (w dy − n · mean(n w dy)), dw = Σ n dy. gridDim.y is the branch;
// its rows are branch + branches · k. A group has `lanes` threads, a multiple of 32.
template <class A>
__global__ void __launch_bounds__(kMostThreads, 2)
    GradKernel(const A* dy, const A* x, const float* w, const float* rstd, const A* addend, Rows a,
               int lanes, A* dx, float* parts) {
  constexpr int kV = kVec<A>;
  __shared__ float dots[2][kRows][kMostThreads / kWarp];
  __shared__ float fold[kThreads * kV];
  const int groups = static_cast<int>(blockDim.x) / lanes;
  const int group = static_cast<int>(threadIdx.x) / lanes;
  const int column = static_cast<int>(threadIdx.x) % lanes * kV;
  const bool mine = column < a.width;
  const int branch = blockIdx.y;
  const int64_t count = (a.rows - branch + a.branches - 1) / a.branches;
  float gain[kV] = {};
  float sum[kV] = {};
  for (int j = 0; mine && j < kV; ++j) gain[j] = w[branch * a.width + column + j];
  const int64_t stride = int64_t{gridDim.x} * groups * kRows;
  int parity = 0;
  for (int64_t base = int64_t{blockIdx.x} * groups * kRows; base < count; base += stride) {
    const int64_t first = base + group * kRows;
    Vec<A, kV> vx[kRows];
    Vec<A, kV> vd[kRows];
    float scale[kRows];
    float dot[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      dot[r] = 0;
      scale[r] = 0;
      if (first + r >= count || !mine) continue;
      const int64_t row = branch + (first + r) * a.branches;
      vx[r] = *reinterpret_cast<const Vec<A, kV>*>(x + row * a.width + column);
      vd[r] = *reinterpret_cast<const Vec<A, kV>*>(dy + row * a.width + column);
      scale[r] = rstd[row];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + r < count && mine) {
#pragma unroll
        for (int j = 0; j < kV; ++j) dot[r] += ToFloat(vx[r].v[j]) * ToFloat(vd[r].v[j]) * gain[j];
      }
      dot[r] = WarpReduce(dot[r] * scale[r]);
      if (threadIdx.x % kWarp == 0) dots[parity][r][threadIdx.x / kWarp] = dot[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float mean = 0;
#pragma unroll 8
      for (int p = group * lanes / kWarp; p < (group + 1) * lanes / kWarp; ++p) {
        mean += dots[parity][r][p];
      }
      mean /= static_cast<float>(a.width);
      if (first + r >= count || !mine) continue;
      float out[kV];
#pragma unroll
      for (int j = 0; j < kV; ++j) {
        const float n = ToFloat(vx[r].v[j]) * scale[r];
        const float d = ToFloat(vd[r].v[j]);
        sum[j] += n * d;
        out[j] = scale[r] * (gain[j] * d - n * mean);
      }
      const int64_t row = branch + (first + r) * a.branches;
      if (addend != nullptr) {
        float other[kV];
        LoadFloats<kV>(addend + row * a.width + column, other);
#pragma unroll
        for (int j = 0; j < kV; ++j) out[j] += other[j];
      }
      StoreFloats<kV>(dx + row * a.width + column, out);
    }
    parity ^= 1;
  }
  if (groups > 1) {
#pragma unroll
    for (int j = 0; j < kV; ++j) fold[threadIdx.x * kV + j] = sum[j];
    __syncthreads();
    if (group != 0) return;
    for (int other = 1; other < groups; ++other) {
#pragma unroll
      for (int j = 0; j < kV; ++j) sum[j] += fold[(threadIdx.x + other * lanes) * kV + j];
    }
  }
  if (!mine) return;
  float* to = parts + (int64_t{blockIdx.x} * a.branches + branch) * a.width + column;
#pragma unroll
  for (int j = 0; j < kV; ++j) to[j] = sum[j];
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    GradPlainKernel(const A* dy, const A* x, const float* w, const float* rstd, const A* addend,
                    Rows a, A* dx) {
  const int64_t row = blockIdx.x;
  const float* gain = w + row % a.branches * a.width;
  const A* xs = x + row * a.width;
  const A* ds = dy + row * a.width;
  const float scale = rstd[row];
  float dot = 0;
  for (int i = threadIdx.x; i < a.width; i += kThreads) {
    dot += ToFloat(xs[i]) * scale * gain[i] * ToFloat(ds[i]);
  }
  const float mean = BlockReduce(dot) / static_cast<float>(a.width);
  for (int i = threadIdx.x; i < a.width; i += kThreads) {
    const float other = addend != nullptr ? ToFloat(addend[row * a.width + i]) : 0.0f;
    dx[row * a.width + i] =
        FromFloat<A>(other + scale * (gain[i] * ToFloat(ds[i]) - ToFloat(xs[i]) * scale * mean));
  }
}

// A thread a column of a branch; gridDim.z parts of the rows.
template <class A>
__global__ void __launch_bounds__(kThreads)
    GainPlainKernel(const A* dy, const A* x, const float* rstd, Rows a, float* parts) {
  const int column = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int branch = blockIdx.y;
  if (column >= a.width) return;
  float sum = 0;
  const int64_t step = int64_t{gridDim.z} * a.branches;
  for (int64_t row = branch + int64_t{blockIdx.z} * a.branches; row < a.rows; row += step) {
    sum += ToFloat(dy[row * a.width + column]) * ToFloat(x[row * a.width + column]) * rstd[row];
  }
  parts[(int64_t{blockIdx.z} * a.branches + branch) * a.width + column] = sum;
}

template <class A, int kN>
bool ForwardFits(Stream& stream, const Tensor& x, const Tensor& w, const Rows& a, Tensor& y,
                 Tensor& rstd) {
  if (CeilDiv(a.width, kVec<A> * kWarp) > kN) return false;
  Launch(stream, ForwardKernel<A, kN>, dim3(static_cast<unsigned>(CeilDiv(a.rows, kWarps))),
         kThreads, 0, Data<A>(x), Data<float>(w), a, Data<A>(y), Data<float>(rstd));
  return true;
}

// Runs launch(parts, splits), which leaves `splits` sums of dw in parts, and adds them to dw.
template <class F>
void GradParts(Stream& stream, int64_t splits, Tensor& dw, F&& launch) {
  Tensor parts = Tensor::Empty(stream, DType::kF32, {splits, dw.elements()}, MemoryTag::kWorkspace);
  launch(Data<float>(parts), static_cast<unsigned>(splits));
  AddParts(stream, Data<float>(parts), splits, dw.elements(), dw.elements(), Data<float>(dw));
}

template <class A, int kN>
bool GradFits(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& w,
              const Tensor& rstd, const Tensor& addend, const Rows& a, Tensor& dx, Tensor& dw) {
  if (CeilDiv(a.width, kVec<A> * kWarp) > kN) return false;
  const auto kernel = addend.defined() ? GradRowsKernel<A, kN, true> : GradRowsKernel<A, kN, false>;
  const int64_t most = CeilDiv(CeilDiv(a.rows, a.branches), kWarps);
  const int64_t splits = std::clamp<int64_t>(kGradBlocks / a.branches, 1, most);
  GradParts(stream, splits, dw, [&](float* parts, unsigned blocks) {
    Launch(stream, kernel, dim3(blocks, static_cast<unsigned>(a.branches)), kThreads, 0,
           Data<A>(dy), Data<A>(x), Data<float>(w), Data<float>(rstd), Data<A>(addend), a,
           Data<A>(dx), parts);
  });
  return true;
}

template <class A>
void GradOwned(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& w,
               const Tensor& rstd, const Tensor& addend, const Rows& a, Tensor& dx, Tensor& dw) {
  const auto lanes = static_cast<int>(CeilDiv(a.width / kVec<A>, kWarp)) * kWarp;
  const int groups = std::max(1, kThreads / lanes);
  const int threads = lanes * groups;
  const int64_t most = CeilDiv(CeilDiv(a.rows, a.branches), groups * kRows);
  const int64_t blocks = kMultiprocessors * (kResidentThreads / threads);
  const int64_t splits = std::clamp<int64_t>(blocks / a.branches, 1, most);
  GradParts(stream, splits, dw, [&](float* parts, unsigned count) {
    Launch(stream, GradKernel<A>, dim3(count, static_cast<unsigned>(a.branches)), threads, 0,
           Data<A>(dy), Data<A>(x), Data<float>(w), Data<float>(rstd), Data<A>(addend), a, lanes,
           Data<A>(dx), parts);
  });
}

template <class A>
void GradPlain(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& w,
               const Tensor& rstd, const Tensor& addend, const Rows& a, Tensor& dx, Tensor& dw) {
  constexpr int64_t kRowsOfPart = 64;
  constexpr int64_t kMostParts = 256;
  Launch(stream, GradPlainKernel<A>, dim3(static_cast<unsigned>(a.rows)), kThreads, 0, Data<A>(dy),
         Data<A>(x), Data<float>(w), Data<float>(rstd), Data<A>(addend), a, Data<A>(dx));
  const int64_t splits = std::clamp<int64_t>(a.rows / a.branches / kRowsOfPart, 1, kMostParts);
  GradParts(stream, splits, dw, [&](float* parts, unsigned count) {
    Launch(stream, GainPlainKernel<A>,
           dim3(static_cast<unsigned>(CeilDiv(a.width, kThreads)),
                static_cast<unsigned>(a.branches), count),
           kThreads, 0, Data<A>(dy), Data<A>(x), Data<float>(rstd), a, parts);
  });
}

Rows RowsOf(const Tensor& x, const Tensor& w, double eps) {
  CHECK_EQ(w.dim(1), x.dim(1));
  return {x.dim(0), static_cast<int>(x.dim(1)), static_cast<int>(w.dim(0)),
          static_cast<float>(eps)};
}

}  // namespace

void RmsNorm(Stream& stream, const Tensor& x, const Tensor& w, double eps, Tensor& y,
             Tensor& rstd) {
  const Rows a = RowsOf(x, w, eps);
  CHECK_EQ(y.shape(), x.shape());
  CHECK_EQ(rstd.elements(), a.rows);
  if (x.elements() == 0) return;
  DispatchActivation(x.dtype(), [&](auto real) {
    using A = decltype(real);
    if (a.width % kVec<A> == 0 && (ForwardFits<A, 1>(stream, x, w, a, y, rstd) ||
                                   ForwardFits<A, 2>(stream, x, w, a, y, rstd) ||
                                   ForwardFits<A, 4>(stream, x, w, a, y, rstd) ||
                                   ForwardFits<A, 10>(stream, x, w, a, y, rstd) ||
                                   ForwardFits<A, 16>(stream, x, w, a, y, rstd))) {
      return;
    }
    Launch(stream, ForwardPlainKernel<A>, dim3(static_cast<unsigned>(a.rows)), kThreads, 0,
           Data<A>(x), Data<float>(w), a, Data<A>(y), Data<float>(rstd));
  });
}

void RmsNormGrad(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& w,
                 const Tensor& rstd, const Tensor& addend, Tensor& dx, Tensor& dw) {
  const Rows a = RowsOf(x, w, 0);
  CHECK_EQ(dy.shape(), x.shape());
  CHECK_EQ(dx.shape(), x.shape());
  CHECK_EQ(dw.shape(), w.shape());
  if (addend.defined()) CHECK_EQ(addend.shape(), x.shape());
  if (x.elements() == 0) return;
  DispatchActivation(x.dtype(), [&](auto real) {
    using A = decltype(real);
    if (a.width % kVec<A> != 0 || a.width / kVec < A >> kMostThreads) {
      GradPlain<A>(stream, dy, x, w, rstd, addend, a, dx, dw);
    } else if (!GradFits<A, 1>(stream, dy, x, w, rstd, addend, a, dx, dw) &&
               !GradFits<A, 2>(stream, dy, x, w, rstd, addend, a, dx, dw)) {
      GradOwned<A>(stream, dy, x, w, rstd, addend, a, dx, dw);
    }
  });
}

}  // namespace mneme::gpu
