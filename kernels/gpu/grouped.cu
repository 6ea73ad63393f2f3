// Grouped matrix products for every device and dtype, and the choice of the Hopper kernel. A block
// of 256 threads makes a 64 x 64 tile of c from slices of a and b in shared memory: on tensor cores
// for bf16, with fused multiply-adds for f32 (no TF32: this is the mode that checks). A tile of
// rows finds its group by walking the offsets on the device.
//
// The plain kernel is for checking and for GPUs other than Hopper: it is bound by its loads, far
// from the roofline (that of the shapes that matter is in grouped_sm90.cu).
#include <mma.h>

#include <algorithm>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/grouped.h"
#include "kernels/gpu/grouped_sm90.h"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {
namespace {

namespace wmma = nvcuda::wmma;

constexpr int kThreads = 256;
constexpr int kTile = 64;
constexpr int kPitch = kTile + 8;  // of a slice's line in shared memory: multiples of 16 bytes

// Where an operand's element (row or column i of c, k) lies: start + i · i_step + k · k_step.
template <class T>
struct Operand {
  const T* start;
  int64_t i_step, k_step;
};

// kDepth x 64 of an operand to shared memory, zeros outside [0, i_end) x [0, k_end).
template <int kDepth, class T>
__device__ void LoadSlice(const Operand<T>& from, int64_t i0, int64_t i_end, int64_t k0,
                          int64_t k_end, T (&to)[kDepth][kPitch]) {
  for (int x = static_cast<int>(threadIdx.x); x < kDepth * kTile; x += kThreads) {
    // Neighbouring threads along the dim that is contiguous in memory.
    const int k = from.k_step == 1 ? x % kDepth : x / kTile;
    const int i = from.k_step == 1 ? x / kDepth : x % kTile;
    const bool inside = i0 + i < i_end && k0 + k < k_end;
    to[k][i] = inside ? from.start[(i0 + i) * from.i_step + (k0 + k) * from.k_step] : T(0.0f);
  }
}

// The tile's sum in the registers of 256 threads.
template <class T>
struct Sum;

template <>
struct Sum<float> {
  static constexpr int kDepth = 16;
  float c[4][4] = {};

  __device__ void Add(const float (&a)[kDepth][kPitch], const float (&b)[kDepth][kPitch]) {
    const int row = static_cast<int>(threadIdx.x) / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int k = 0; k < kDepth; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) c[i][j] = fmaf(a[k][row + i], b[k][column + j], c[i][j]);
  }
  __device__ void Put(float (&out)[kTile][kPitch]) const {
    const int row = static_cast<int>(threadIdx.x) / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) out[row + i][column + j] = c[i][j];
  }
};

template <>
struct Sum<bf16> {
  static constexpr int kDepth = 32;
  // A warp's 16 x 32.
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> c[2];

  __device__ Sum() {
    wmma::fill_fragment(c[0], 0.0f);
    wmma::fill_fragment(c[1], 0.0f);
  }
  __device__ static int Row() { return static_cast<int>(threadIdx.x) / 32 % 4 * 16; }
  __device__ static int Column() { return static_cast<int>(threadIdx.x) / 128 * 32; }
  __device__ void Add(const bf16 (&a)[kDepth][kPitch], const bf16 (&b)[kDepth][kPitch]) {
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, wmma::col_major> fa;
      wmma::load_matrix_sync(fa, &a[k][Row()], kPitch);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, wmma::row_major> fb;
        wmma::load_matrix_sync(fb, &b[k][Column() + 16 * j], kPitch);
        wmma::mma_sync(c[j], fa, fb, c[j]);
      }
    }
  }
  __device__ void Put(float (&out)[kTile][kPitch]) const {
    for (int j = 0; j < 2; ++j)
      wmma::store_matrix_sync(&out[Row()][Column() + 16 * j], c[j], kPitch, wmma::mem_row_major);
  }
};

// The tile at (i0, j0) of a product of depth k, to shared memory.
template <class T>
__device__ void ProductTile(const Operand<T>& a, int64_t i0, int64_t i_end, const Operand<T>& b,
                            int64_t j0, int64_t j_end, int64_t depth, float (&out)[kTile][kPitch]) {
  constexpr int kDepth = Sum<T>::kDepth;
  __shared__ __align__(32) T slice_a[kDepth][kPitch];
  __shared__ __align__(32) T slice_b[kDepth][kPitch];
  Sum<T> sum;
  for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
    LoadSlice<kDepth>(a, i0, i_end, k0, depth, slice_a);
    LoadSlice<kDepth>(b, j0, j_end, k0, depth, slice_b);
    __syncthreads();
    sum.Add(slice_a, slice_b);
    __syncthreads();
  }
  sum.Put(out);
  __syncthreads();
}

// c rows = a rows · op(b[e]); blockIdx.y counts tiles of rows over all groups.
template <class T>
__global__ void __launch_bounds__(kThreads)
    RowsKernel(const T* a, const T* b, bool across, const int64_t* offsets, int groups, int64_t n,
               int64_t k, T* c) {
  __shared__ __align__(32) float out[kTile][kPitch];
  int64_t tile = blockIdx.y, rows = 0;
  int group = 0;
  for (; group < groups; ++group) {
    rows = offsets[group + 1] - offsets[group];
    const int64_t tiles = (rows + kTile - 1) / kTile;
    if (tile < tiles) break;
    tile -= tiles;
  }
  if (group == groups) return;
  const int64_t i0 = tile * kTile, j0 = int64_t{blockIdx.x} * kTile, start = offsets[group];
  const Operand<T> of_a{a + start * k, k, 1};
  const Operand<T> of_b{b + group * n * k, across ? 1 : k, across ? n : 1};
  ProductTile(of_a, i0, rows, of_b, j0, n, k, out);
  for (int x = static_cast<int>(threadIdx.x); x < kTile * kTile; x += kThreads) {
    const int i = x / kTile, j = x % kTile;
    if (i0 + i < rows && j0 + j < n) c[(start + i0 + i) * n + j0 + j] = FromFloat<T>(out[i][j]);
  }
}

// c[e] += a_rowsᵀ · b_rows.
template <class T>
__global__ void __launch_bounds__(kThreads)
    WeightGradKernel(const T* a, const T* b, const int64_t* offsets, int64_t m, int64_t n,
                     float* c) {
  __shared__ __align__(32) float out[kTile][kPitch];
  const int64_t group = blockIdx.z, start = offsets[group], rows = offsets[group + 1] - start;
  if (rows == 0) return;
  const int64_t i0 = int64_t{blockIdx.y} * kTile, j0 = int64_t{blockIdx.x} * kTile;
  ProductTile(Operand<T>{a + start * m, 1, m}, i0, m, Operand<T>{b + start * n, 1, n}, j0, n, rows,
              out);
  for (int x = static_cast<int>(threadIdx.x); x < kTile * kTile; x += kThreads) {
    const int i = x / kTile, j = x % kTile;
    if (i0 + i < m && j0 + j < n) c[(group * m + i0 + i) * n + j0 + j] += out[i][j];
  }
}

// act = SiLU(left half of gate_up) · right half, for the rows that belong to a group.
template <class T>
__global__ void __launch_bounds__(kThreads)
    SwiGluKernel(const T* gate_up, const int64_t* rows, int64_t n, T* act) {
  const int64_t count = rows[0] * n;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t at = i / n * 2 * n + i % n;
    const float gate = ToFloat(gate_up[at]), up = ToFloat(gate_up[at + n]);
    act[i] = FromFloat<T>(gate / (1.0f + expf(-gate)) * up);
  }
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether the Hopper kernel serves; it then does.
bool OnHopper(Stream& stream, DType dtype, GroupedForm form, const GroupedProblem& p) {
  const bool serves = QueueOf(stream).hopper() && dtype == DType::kBf16 &&
                      GroupedSm90Takes(form, p) && Aligned(p.a) && Aligned(p.b) && Aligned(p.c) &&
                      Aligned(p.act) && Aligned(p.b2) && Aligned(p.out);
  if (serves) GroupedSm90(stream, form, GroupedSm90Pair(p), p);
  CHECK(serves || p.gather == GroupedGather::kNone);
  return serves;
}

GroupedProblem ProblemOf(const Tensor& a, Gather of_a, const Tensor& b, Gather of_b,
                         const Tensor& offsets, Tensor& c) {
  GroupedProblem p;
  p.groups = offsets.elements() - 1;
  p.rows = a.dim(0);
  p.offsets = Data<int64_t>(offsets);
  p.a = a.raw();
  p.b = b.raw();
  p.c = c.raw();
  const Gather& gather = of_a.slots ? of_a : of_b;
  if (gather.slots == nullptr) return p;
  p.gather = of_a.slots ? GroupedGather::kA : GroupedGather::kB;
  p.rows = gather.slots->elements();
  p.slots = Data<int32_t>(*gather.slots);
  p.per_row = gather.per_row;
  return p;
}

void PlainRows(Stream& stream, const GroupedProblem& p, bool across, DType dtype) {
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.n, kTile)),
                  static_cast<unsigned>(CeilDiv(p.rows, kTile) + p.groups));
  DispatchActivation(dtype, [&](auto real) {
    using T = decltype(real);
    Launch(stream, RowsKernel<T>, grid, kThreads, 0, static_cast<const T*>(p.a),
           static_cast<const T*>(p.b), across, p.offsets, static_cast<int>(p.groups), p.n, p.k,
           static_cast<T*>(p.c));
  });
}

}  // namespace

bool GroupedGathers(Stream& stream, std::initializer_list<const Tensor*> weights,
                    std::initializer_list<const Tensor*> rows) {
  if (!QueueOf(stream).hopper()) return false;
  for (const Tensor* w : weights) {
    if (w->dim(1) % 8 != 0 || w->dim(2) % 8 != 0 || !Aligned(w->raw())) return false;
    if (w->dim(0) > kGroupedSm90MaxGroups) return false;
  }
  return std::all_of(rows.begin(), rows.end(), [](const Tensor* x) {
    return x->dtype() == DType::kBf16 && Aligned(x->raw());
  });
}

void GroupedMatmul(Stream& stream, const Tensor& a, const Tensor& b, Trans tb,
                   const Tensor& offsets, Tensor& c) {
  const bool across = tb == Trans::kNo;
  GroupedProblem p = ProblemOf(a, {}, b, {}, offsets, c);
  p.k = a.dim(1);
  p.n = c.dim(1);
  CHECK_EQ(b.shape(), across ? (Shape{p.groups, p.k, p.n}) : (Shape{p.groups, p.n, p.k}));
  if (p.rows == 0 || p.n == 0) return;
  const GroupedForm form = across ? GroupedForm::kRowsAcross : GroupedForm::kRows;
  if (!OnHopper(stream, a.dtype(), form, p)) PlainRows(stream, p, across, a.dtype());
}

void GroupedWeightGrad(Stream& stream, const Tensor& a, Gather of_a, const Tensor& b, Gather of_b,
                       const Tensor& offsets, Tensor& turns, Tensor& dw) {
  GroupedProblem p = ProblemOf(a, of_a, b, of_b, offsets, dw);
  p.turns = Data<int32_t>(turns);
  p.m = a.dim(1);
  p.n = b.dim(1);
  CHECK_EQ(dw.shape(), (Shape{p.groups, p.m, p.n}));
  if (p.rows == 0 || p.m == 0 || p.n == 0) return;
  if (OnHopper(stream, a.dtype(), GroupedForm::kWeightGrad, p)) return;
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.n, kTile)),
                  static_cast<unsigned>(CeilDiv(p.m, kTile)), static_cast<unsigned>(p.groups));
  DispatchActivation(a.dtype(), [&](auto real) {
    using T = decltype(real);
    Launch(stream, WeightGradKernel<T>, grid, kThreads, 0, static_cast<const T*>(p.a),
           static_cast<const T*>(p.b), p.offsets, p.m, p.n, Data<float>(dw));
  });
}

// A place of a pair of blocks is 256 x 256 or 128 x 512: four halves of tiles each. Before them the
// number of clusters that began.
int64_t GroupedTurns(const Tensor& dw) {
  return 1 + dw.dim(0) * CeilDiv(dw.dim(1), 128) * CeilDiv(dw.dim(2), 256) * 4;
}

void GroupedSwiGlu(Stream& stream, const Tensor& a, Gather of_a, const Tensor& w,
                   const Tensor& offsets, Tensor& gate_up, Tensor& act) {
  GroupedProblem p = ProblemOf(a, of_a, w, {}, offsets, gate_up);
  p.k = a.dim(1);
  p.n = act.dim(1);
  p.act = act.raw();
  if (p.rows == 0 || OnHopper(stream, a.dtype(), GroupedForm::kSwiGlu, p)) return;
  p.n *= 2;
  PlainRows(stream, p, false, a.dtype());
  DispatchActivation(a.dtype(), [&](auto real) {
    using T = decltype(real);
    const auto blocks = static_cast<unsigned>(QueueOf(stream).multiprocessors * 16);
    Launch(stream, SwiGluKernel<T>, blocks, kThreads, 0, Data<T>(gate_up), p.offsets + p.groups,
           act.dim(1), Data<T>(act));
  });
}

void GroupedFeedForward(Stream& stream, const Tensor& a, Gather of_a, const Tensor& w_gate_up,
                        const Tensor& w_down, const Tensor& offsets, Tensor& gate_up, Tensor& out) {
  GroupedProblem p = ProblemOf(a, of_a, w_gate_up, {}, offsets, gate_up);
  p.k = a.dim(1);
  p.n = w_down.dim(2);
  p.b2 = w_down.raw();
  p.out = out.raw();
  if (p.rows == 0) return;
  CHECK(OnHopper(stream, a.dtype(), GroupedForm::kFeedForward, p));
}

void GroupedDownGrad(Stream& stream, const Tensor& dy, Gather of_dy, const Tensor& w,
                     const Tensor& offsets, const Tensor& gate_up, const Tensor& weights,
                     Tensor& d_gate_up, Tensor& act, Tensor& inner) {
  GroupedProblem p = ProblemOf(dy, of_dy, w, {}, offsets, d_gate_up);
  p.k = dy.dim(1);
  p.n = act.dim(1);
  CHECK_EQ(inner.shape(), (Shape{CeilDiv(p.n, kInnerColumns), p.rows}));
  p.act = act.raw();
  p.gate_up = gate_up.raw();
  p.weights = Data<float>(weights);
  p.inner = Data<float>(inner);
  if (p.rows == 0) return;
  CHECK(OnHopper(stream, dy.dtype(), GroupedForm::kDownGrad, p));
}

void GroupedMatmulWeightGrad(Stream& stream, const Tensor& a, const Tensor& b,
                             const Tensor& offsets, Tensor& dw) {
  Tensor none;
  GroupedWeightGrad(stream, a, {}, b, {}, offsets, none, dw);
}

}  // namespace mneme::gpu
