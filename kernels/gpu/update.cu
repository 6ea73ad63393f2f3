// AdamW, Muon's momentum and step, and sums, each in one pass over memory (sums: two stages in
// double, in an order that does not depend on addresses); Newton-Schulz of a batch of matrices as
// products of cuBLASLt (small ones: newton_schulz.cu). What varies by step is read from the device.
//
// Elementwise kernels: a thread takes four neighbouring numbers, as vectors of 16 bytes where all
// pointers reach a boundary at the same element. Bytes a number: AdamW reads 16 and writes 12, and
// 2 for the bf16 copy; momentum 8 and 4 + 2; Muon's step 2 + 4 and 4 + 2. Floor: bytes / 4.3 TB/s,
// so AdamW of 1e9 parameters 7.0 ms.
//
// Newton-Schulz of X [n, m], n <= m, five times: A = X Xᵀ (2n²m), B = bA + cA² (2n³), X' = aX + BX
// (2n²m). A and B are symmetric: strips of rows are computed from the diagonal on and mirrored, n²
// numbers moved for half of the products saved. 2,560 x 1,536: 157 GFLOP a matrix without that, 72
// of them 11.3 TFLOP = 14.3 ms at 790 TFLOP/s.
//
// Measured on an H100 (copy 2.98 TB/s, products 800 TFLOP/s): AdamW 3.00 TB/s, momentum 3.04,
// Muon's step 3.02, sum of squares 3.11. Newton-Schulz of those 72: 16.2 ms (18.6 without strips;
// batched products of PyTorch 20.9): normalising 0.59, A 5 · 0.88, B 5 · 0.64, X' 5 · 1.25, mirrors
// 10 · 0.10.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/gpu/blas.h"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/newton_schulz.h"
#include "kernels/ops/update.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 4;  // numbers a thread

__device__ __forceinline__ int64_t ThreadNumber() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// How n flat numbers are dealt to threads: `lead` single ones, then groups from the first common
// boundary on, then single ones again; all single where the pointers never meet at a boundary.
struct Deal {
  int64_t n = 0;
  int64_t lead = 0;
  int64_t groups = 0;

  explicit Deal(int64_t count) : n(count), lead(count) {}
  // The same with the element boundaries of these pointers, of which nullptr has none.
  template <class... T>
  Deal(int64_t count, const T*... pointers) : n(count), lead(count) {
    for (int64_t first = 0; first < kGroup && first < n; ++first) {
      if ((AtBoundary(pointers + (pointers == nullptr ? 0 : first)) && ...)) {
        lead = first;
        groups = (n - first) / kGroup;
        return;
      }
    }
  }
  template <class T>
  static bool AtBoundary(const T* p) {
    return reinterpret_cast<uintptr_t>(p) % (kGroup * sizeof(T)) == 0;
  }
  dim3 Grid() const {
    return dim3(static_cast<unsigned>(CeilDiv(n - groups * (kGroup - 1), kThreads)));
  }
  // Calls f(first number, number of them as a constant).
  template <class F>
  __device__ __forceinline__ void Run(F f) const {
    const int64_t at = ThreadNumber();
    if (at < groups) {
      f(lead + at * kGroup, std::integral_constant<int, kGroup>{});
      return;
    }
    const int64_t single = at - groups;
    const int64_t i = single < lead ? single : single + groups * kGroup;
    if (i < n) f(i, std::integral_constant<int, 1>{});
  }
};

// AdamW in floats; the formula of AdamElement in cpu/update.cc with its divisions by step scalars
// taken out. Fused products are written as such, so that all widths give the same bits.
struct Adam {
  float clip, beta1, rest1, beta2, rest2, inverse1, inverse2, eps, rate, keep;

  __device__ Adam(const AdamOptions& o, const double* step) {
    clip = static_cast<float>(step[kStepClip]);
    beta1 = static_cast<float>(o.beta1);
    rest1 = static_cast<float>(1 - o.beta1);
    beta2 = static_cast<float>(o.beta2);
    rest2 = static_cast<float>(1 - o.beta2);
    inverse1 = 1.0f / static_cast<float>(step[kStepBias1]);
    inverse2 = 1.0f / static_cast<float>(step[kStepBias2]);
    eps = static_cast<float>(o.eps);
    const double by = step[kStepRate] * o.rate_mult;
    rate = static_cast<float>(by);
    keep = static_cast<float>(1 - by * o.decay);
  }

  template <int N>
  __device__ __forceinline__ void Update(const float* g_at, float* m_at, float* v_at, float* p_at,
                                         float (&p)[N]) const {
    float g[N];
    float m[N];
    float v[N];
    LoadFloats<N>(g_at, g);
    LoadFloats<N>(m_at, m);
    LoadFloats<N>(v_at, v);
    LoadFloats<N>(p_at, p);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float gradient = clip * g[i];
      m[i] = fmaf(beta1, m[i], rest1 * gradient);
      v[i] = fmaf(rest2 * gradient, gradient, beta2 * v[i]);
      const float root = sqrtf(fmaxf(v[i], FLT_MIN) * inverse2);
      p[i] = fmaf(keep, p[i], -rate * (m[i] * inverse1 / (root + eps)));
    }
    StoreFloats<N>(m_at, m);
    StoreFloats<N>(v_at, v);
    StoreFloats<N>(p_at, p);
  }
};

template <class C>
__global__ void __launch_bounds__(kThreads)
    AdamWKernel(AdamOptions o, Deal deal, const double* step, const float* g, float* m, float* v,
                float* p, C* copy) {
  if (step[kStepApply] == 0) return;
  const Adam adam(o, step);
  deal.Run([&](int64_t at, auto count) {
    constexpr int kN = decltype(count)::value;
    float x[kN];
    adam.Update<kN>(g + at, m + at, v + at, p + at, x);
    if (copy != nullptr) StoreFloats<kN>(copy + at, x);
  });
}

// Threads along x take a row's groups, along y rows.
template <int N>
__global__ void __launch_bounds__(kThreads)
    AdamRowsKernel(AdamOptions o, int64_t count, int64_t rows, int64_t width, const double* step,
                   const float* g, const int64_t* slots, float* m, float* v, float* p) {
  if (step[kStepApply] == 0) return;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= count) return;
  const int64_t slot = slots[i];
  if (slot < 0 || slot >= rows) __trap();
  const Adam adam(o, step);
  for (int64_t j = threadIdx.x * N; j < width; j += blockDim.x * N) {
    const int64_t at = slot * width + j;
    float x[N];
    adam.Update<N>(g + i * width + j, m + at, v + at, p + at, x);
  }
}

// Runs of a region, one after the other in a packed tensor; what one launch takes of them.
struct Runs {
  static constexpr int kMost = 64;

  int count = 0;
  int64_t first = 0;      // number of the packed tensor that is the first here
  int64_t numbers = 0;    // of all
  int64_t at[kMost];      // in the region
  int64_t before[kMost];  // numbers of the runs before it here

  // Calls f(place in the region, place in the packed tensor) for this thread's kN numbers.
  template <int kN, class F>
  __device__ __forceinline__ void Run(F f) const {
    const int64_t i = ThreadNumber() * kN;
    if (i >= numbers) return;
    int run = 0;  // the last that begins at or before i
#pragma unroll
    for (int step = kMost / 2; step > 0; step /= 2) {
      if (run + step < count && before[run + step] <= i) run += step;
    }
    f(at[run] + i - before[run], first + i);
  }
};

// Queues launch(Runs, blocks, constant: numbers a thread) for all runs. The region has `region`
// numbers, the packed tensor `packed`; `aligned`: groups of numbers may move as vectors where runs
// begin at multiples of them.
template <class F>
void EachRuns(FlatRuns runs, int64_t region, int64_t packed, bool aligned, const F& launch) {
  int64_t done = 0;
  for (size_t begin = 0; begin < runs.size(); begin += Runs::kMost) {
    Runs some;
    some.first = done;
    bool groups = aligned && done % kGroup == 0;
    for (const FlatRun& run : runs.subspan(begin, Runs::kMost)) {
      CHECK_LE(0, run.at);
      CHECK_LE(run.at + run.count, region);
      groups = groups && run.at % kGroup == 0 && run.count % kGroup == 0;
      some.at[some.count] = run.at;
      some.before[some.count++] = some.numbers;
      some.numbers += run.count;
    }
    done += some.numbers;
    const auto blocks = [&](int each) {
      return dim3(static_cast<unsigned>(CeilDiv(some.numbers, int64_t{each} * kThreads)));
    };
    if (groups) {
      launch(some, blocks(kGroup), std::integral_constant<int, kGroup>{});
    } else {
      launch(some, blocks(1), std::integral_constant<int, 1>{});
    }
  }
  CHECK_EQ(done, packed);
}

template <int kN, class U>
__global__ void __launch_bounds__(kThreads)
    MuonMomentumKernel(float momentum, bool nesterov, const __grid_constant__ Runs runs,
                       const double* step, const float* g, float* buf, U* u) {
  const bool apply = step[kStepApply] != 0;
  const float clip = static_cast<float>(step[kStepClip]);
  runs.Run<kN>([&](int64_t at, int64_t to) {
    float b[kN] = {};
    if (apply) {
      float x[kN];
      LoadFloats<kN>(g + at, x);
      LoadFloats<kN>(buf + at, b);
#pragma unroll
      for (int i = 0; i < kN; ++i) b[i] = fmaf(momentum, b[i], clip * x[i]);
      StoreFloats<kN>(buf + at, b);
      if (nesterov) {
#pragma unroll
        for (int i = 0; i < kN; ++i) b[i] = fmaf(momentum, b[i], clip * x[i]);
      }
    }
    StoreFloats<kN>(u + to, b);
  });
}

template <int kN, class O, class C>
__global__ void __launch_bounds__(kThreads)
    MuonApplyKernel(double scale, double decay, const __grid_constant__ Runs runs,
                    const double* step, const O* o, float* p, C* copy) {
  if (step[kStepApply] == 0) return;
  const float keep = static_cast<float>(1 - step[kStepRate] * decay);
  const float move = static_cast<float>(step[kStepRate] * scale);
  runs.Run<kN>([&](int64_t at, int64_t from) {
    float x[kN];
    float y[kN];
    LoadFloats<kN>(o + from, y);
    LoadFloats<kN>(p + at, x);
#pragma unroll
    for (int i = 0; i < kN; ++i) x[i] = fmaf(keep, x[i], -move * y[i]);
    StoreFloats<kN>(p + at, x);
    if (copy != nullptr) StoreFloats<kN>(copy + at, x);
  });
}

// Sums. Numbers belong to threads by their index alone, whatever the addresses.

constexpr int64_t kPiece = 32768;  // numbers that one block adds up

struct Itself {
  __device__ double operator()(float x) const { return x; }
};
struct Square {
  __device__ double operator()(float x) const { return static_cast<double>(x) * x; }
};

// This block's sum of f over x[0, n); every thread gets it.
template <bool kAligned, class F, class T>
__device__ double BlockSum(const T* x, int64_t n, F f) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x * kGroup; i < n; i += kThreads * kGroup) {
    float a[kGroup] = {};
    if (kAligned && i + kGroup <= n) {
      LoadFloats<kGroup>(x + i, a);
    } else {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) a[j] = i + j < n ? ToFloat(x[i + j]) : 0.0f;
    }
    sum += (f(a[0]) + f(a[1])) + (f(a[2]) + f(a[3]));
  }
  return BlockReduce(sum);
}

template <bool kAligned, class F, class T>
__global__ void __launch_bounds__(kThreads) PieceSums(const T* x, int64_t n, double* parts) {
  const int64_t begin = blockIdx.x * kPiece;
  const double sum = BlockSum<kAligned>(x + begin, min(kPiece, n - begin), F{});
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    TotalOfParts(const double* parts, int64_t n, double* total) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += parts[i];
  sum = BlockReduce(sum);
  if (threadIdx.x == 0) *total += sum;
}

template <class F>
void AddUp(Stream& stream, const Tensor& x, Tensor& total) {
  const int64_t pieces = CeilDiv(x.elements(), kPiece);
  if (pieces == 0) return;
  Tensor partial = Tensor::Empty(stream, DType::kF64, {pieces}, MemoryTag::kWorkspace);
  DispatchActivation(x.dtype(), [&](auto real) {
    using T = decltype(real);
    const bool aligned = Deal::AtBoundary(Data<T>(x));
    const auto kernel = aligned ? PieceSums<true, F, T> : PieceSums<false, F, T>;
    Launch(stream, kernel, dim3(static_cast<unsigned>(pieces)), kThreads, 0, Data<T>(x),
           x.elements(), Data<double>(partial));
  });
  Launch(stream, TotalOfParts, 1, kThreads, 0, Data<double>(partial), pieces, Data<double>(total));
}

// Newton-Schulz. Blocks along y stand for matrices.

// Sum of squares of a piece of each matrix of `size` numbers; parts [batch, pieces].
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) MatrixSums(const T* x, int64_t size, double* parts) {
  const int64_t begin = blockIdx.x * kPiece;
  const double sum =
      BlockSum<kAligned>(x + blockIdx.y * size + begin, min(kPiece, size - begin), Square{});
  if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// y = x / (‖x‖ + eps), matrix by matrix; y may be x. A block for each piece, as before.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    Normalise(const T* x, int64_t size, double eps, const double* parts, T* y) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < gridDim.x; i += kThreads) {
    sum += parts[blockIdx.y * gridDim.x + i];
  }
  const float inverse = static_cast<float>(1 / (sqrt(BlockReduce(sum)) + eps));
  const int64_t end = min((blockIdx.x + 1) * kPiece, size);
  const int64_t base = blockIdx.y * size;
  for (int64_t i = blockIdx.x * kPiece + threadIdx.x * kGroup; i < end; i += kThreads * kGroup) {
    if (kAligned && i + kGroup <= end) {
      float a[kGroup];
      LoadFloats<kGroup>(x + base + i, a);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) a[j] *= inverse;
      StoreFloats<kGroup>(y + base + i, a);
    } else {
      for (int64_t j = i; j < min(i + kGroup, end); ++j) {
        y[base + j] = FromFloat<T>(ToFloat(x[base + j]) * inverse);
      }
    }
  }
}

constexpr int kTile = 64;

// Of symmetric matrices [batch, n, n] whose strips of `strip` rows are whole from their diagonal
// block on: fills in what lies below those blocks. A block a tile; n and strip are multiples of it.
template <class T>
__global__ void __launch_bounds__(kThreads) Mirror(int64_t n, int64_t strip, T* x) {
  constexpr int kN = kVec<T>;
  constexpr int kAcross = kTile / kN;  // vectors of a tile's row
  const int64_t row = blockIdx.y * kTile;
  const int64_t col = blockIdx.x * kTile;
  if (col / strip <= row / strip) return;
  __shared__ T tile[kTile][kTile + 2];
  T* matrix = x + static_cast<int64_t>(blockIdx.z) * n * n;
  for (int i = threadIdx.x; i < kTile * kAcross; i += kThreads) {
    const int r = i / kAcross;
    const int c = i % kAcross * kN;
    const auto from = *reinterpret_cast<const Vec<T, kN>*>(matrix + (row + r) * n + col + c);
#pragma unroll
    for (int j = 0; j < kN; ++j) tile[r][c + j] = from.v[j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTile * kAcross; i += kThreads) {
    const int r = i / kAcross;
    const int c = i % kAcross * kN;
    Vec<T, kN> to;
#pragma unroll
    for (int j = 0; j < kN; ++j) to.v[j] = tile[c + j][r];
    *reinterpret_cast<Vec<T, kN>*>(matrix + (col + r) * n + row + c) = to;
  }
}

constexpr int64_t kWorkspaceBytes = int64_t{1} << 30;  // of the matrices in work at a time
constexpr int64_t kMostMatrices = 32768;               // a grid has no more in y
constexpr int64_t kMostStrips = 8;
constexpr int64_t kLeastStrip = 384;  // rows: thinner products lose more than they save

// Rows of a strip of a symmetric product of size n; n where strips do not pay.
int64_t StripRows(int64_t n) {
  for (int64_t strips = kMostStrips; strips > 1; --strips) {
    if (n % (strips * kTile) == 0 && n / strips >= kLeastStrip) return n / strips;
  }
  return n;
}

// One batch of matrices x [batch, rows, cols] in work.
class NewtonSchulzRun {
 public:
  NewtonSchulzRun(Stream& stream, const NewtonSchulzOptions& options, Tensor& x)
      : stream_(stream),
        o_(options),
        batch_(x.dim(0)),
        rows_(x.dim(1)),
        cols_(x.dim(2)),
        n_(std::min(rows_, cols_)),
        strip_(StripRows(n_)),
        dtype_(x.dtype()),
        x_(x) {
    gram_ = Tensor::Empty(stream, dtype_, {batch_, n_, n_}, MemoryTag::kWorkspace);
    poly_ = Tensor::Empty(stream, dtype_, {batch_, n_, n_}, MemoryTag::kWorkspace);
    next_ = Tensor::Empty(stream, dtype_, x.shape(), MemoryTag::kWorkspace);
  }

  void Run() {
    // Each step moves between x and next; the last one ends in x.
    Tensor* now = o_.steps % 2 == 0 ? &x_ : &next_;
    Tensor* then = o_.steps % 2 == 0 ? &next_ : &x_;
    Start(*now);
    for (int64_t step = 0; step < o_.steps; ++step) {
      Gram(*now);
      Polynomial();
      Apply(*now, *then);
      std::swap(now, then);
    }
  }

 private:
  void Start(Tensor& to) {
    const int64_t size = rows_ * cols_;
    const int64_t pieces = CeilDiv(size, kPiece);
    Tensor parts = Tensor::Empty(stream_, DType::kF64, {batch_, pieces}, MemoryTag::kWorkspace);
    const dim3 grid(static_cast<unsigned>(pieces), static_cast<unsigned>(batch_));
    DispatchActivation(dtype_, [&](auto real) {
      using T = decltype(real);
      const bool aligned = size % kGroup == 0 && Deal::AtBoundary(Data<T>(x_));
      Launch(stream_, aligned ? MatrixSums<true, T> : MatrixSums<false, T>, grid, kThreads, 0,
             Data<T>(x_), size, Data<double>(parts));
      Launch(stream_, aligned ? Normalise<true, T> : Normalise<false, T>, grid, kThreads, 0,
             Data<T>(x_), size, o_.eps, Data<double>(parts), Data<T>(to));
    });
  }

  // A = X Xᵀ, or Xᵀ X where that is smaller.
  void Gram(const Tensor& x) {
    const bool wide = rows_ <= cols_;
    for (int64_t begin = 0; begin < n_; begin += strip_) {
      BlasProduct p = Strip(begin, gram_);
      p.ta = wide ? Trans::kNo : Trans::kYes;
      p.tb = wide ? Trans::kYes : Trans::kNo;
      p.k = std::max(rows_, cols_);
      p.a = p.b = At(x, begin * (wide ? cols_ : 1));
      p.lda = p.ldb = cols_;
      p.stride_a = p.stride_b = rows_ * cols_;
      Multiply(stream_, p);
    }
    Complete(gram_);
  }

  // B = b A + c A².
  void Polynomial() {
    for (int64_t begin = 0; begin < n_; begin += strip_) {
      BlasProduct p = Strip(begin, poly_);
      p.tb = Trans::kYes;  // A is its own transpose
      p.k = n_;
      p.a = p.b = At(gram_, begin * n_);
      p.lda = p.ldb = n_;
      p.stride_a = p.stride_b = n_ * n_;
      p.addend = At(gram_, begin * (n_ + 1));
      p.alpha = static_cast<float>(o_.c);
      p.beta = static_cast<float>(o_.b);
      Multiply(stream_, p);
    }
    Complete(poly_);
  }

  // X' = a X + B X, or a X + X B.
  void Apply(const Tensor& x, Tensor& to) {
    const bool wide = rows_ <= cols_;
    const Tensor& left = wide ? poly_ : x;
    const Tensor& right = wide ? x : poly_;
    BlasProduct p = {.m = rows_, .n = cols_, .k = n_, .batch = batch_, .in = dtype_, .out = dtype_};
    p.a = left.raw();
    p.b = right.raw();
    p.c = to.raw();
    p.addend = x.raw();
    p.lda = left.dim(2);
    p.ldb = right.dim(2);
    p.ldc = cols_;
    p.stride_a = left.dim(1) * left.dim(2);
    p.stride_b = right.dim(1) * right.dim(2);
    p.stride_c = rows_ * cols_;
    p.beta = static_cast<float>(o_.a);
    Multiply(stream_, p);
  }

  // The product that makes rows [begin, begin + strip) of a symmetric matrix, from their diagonal
  // block on.
  BlasProduct Strip(int64_t begin, Tensor& to) const {
    BlasProduct p = {.m = std::min(strip_, n_ - begin),
                     .n = n_ - begin,
                     .batch = batch_,
                     .in = dtype_,
                     .out = dtype_};
    p.c = At(to, begin * (n_ + 1));
    p.ldc = n_;
    p.stride_c = n_ * n_;
    return p;
  }

  void Complete(Tensor& x) {
    if (strip_ == n_) return;
    const auto tiles = static_cast<unsigned>(n_ / kTile);
    DispatchActivation(dtype_, [&](auto real) {
      using T = decltype(real);
      Launch(stream_, Mirror<T>, dim3(tiles, tiles, static_cast<unsigned>(batch_)), kThreads, 0, n_,
             strip_, Data<T>(x));
    });
  }

  static void* At(Tensor& x, int64_t element) {
    return static_cast<char*>(x.raw()) + element * SizeOf(x.dtype());
  }
  static const void* At(const Tensor& x, int64_t element) {
    return static_cast<const char*>(x.raw()) + element * SizeOf(x.dtype());
  }

  Stream& stream_;
  const NewtonSchulzOptions& o_;
  const int64_t batch_, rows_, cols_;
  const int64_t n_;      // the smaller side
  const int64_t strip_;  // rows
  const DType dtype_;
  Tensor x_, next_;
  Tensor gram_, poly_;  // A and B
};

// Calls f(float{}) or f(bf16{}) by the dtype of a copy that may be undefined.
template <class F>
void DispatchCopy(const Tensor& copy, int64_t elements, F&& f) {
  if (copy.defined()) CHECK_EQ(copy.elements(), elements);
  DispatchActivation(copy.defined() ? copy.dtype() : DType::kF32, f);
}

}  // namespace

void AdamW(Stream& stream, const AdamOptions& options, const Tensor& step, const Tensor& g,
           Tensor& m, Tensor& v, Tensor& p, Tensor& copy) {
  const int64_t n = p.elements();
  for (const Tensor* t : {&g, static_cast<const Tensor*>(&m), static_cast<const Tensor*>(&v)}) {
    CHECK_EQ(t->elements(), n);
  }
  DispatchCopy(copy, n, [&](auto real) {
    using C = decltype(real);
    const Deal deal(n, Data<float>(g), Data<float>(m), Data<float>(v), Data<float>(p),
                    Data<C>(copy));
    Launch(stream, AdamWKernel<C>, deal.Grid(), kThreads, 0, options, deal, Data<double>(step),
           Data<float>(g), Data<float>(m), Data<float>(v), Data<float>(p), Data<C>(copy));
  });
}

void AdamRows(Stream& stream, const AdamOptions& options, const Tensor& step, const Tensor& g,
              const Tensor& slots, Tensor& m, Tensor& v, Tensor& p) {
  const int64_t n = slots.elements();
  if (n == 0) return;
  const int64_t rows = p.dim(0);
  const int64_t width = p.elements() / rows;
  CHECK_EQ(g.elements(), n * width);
  CHECK_EQ(m.elements(), p.elements());
  CHECK_EQ(v.elements(), p.elements());
  const bool aligned = width % kGroup == 0 && Deal::AtBoundary(Data<float>(g)) &&
                       Deal::AtBoundary(Data<float>(m)) && Deal::AtBoundary(Data<float>(v)) &&
                       Deal::AtBoundary(Data<float>(p));
  const int64_t groups = aligned ? width / kGroup : width;
  const auto across = static_cast<unsigned>(std::min<int64_t>(groups, kThreads));
  const dim3 block(across, kThreads / across);
  const dim3 grid(static_cast<unsigned>(CeilDiv(n, block.y)));
  Launch(stream, aligned ? AdamRowsKernel<kGroup> : AdamRowsKernel<1>, grid, block, 0, options, n,
         rows, width, Data<double>(step), Data<float>(g), Data<int64_t>(slots), Data<float>(m),
         Data<float>(v), Data<float>(p));
}

void MuonMomentum(Stream& stream, double momentum, bool nesterov, const Tensor& step, FlatRuns runs,
                  const Tensor& g, Tensor& buf, Tensor& u) {
  CHECK_EQ(g.elements(), buf.elements());
  DispatchActivation(u.dtype(), [&](auto real) {
    using U = decltype(real);
    const bool aligned = Deal::AtBoundary(Data<float>(g)) && Deal::AtBoundary(Data<float>(buf)) &&
                         Deal::AtBoundary(Data<U>(u));
    EachRuns(runs, g.elements(), u.elements(), aligned,
             [&](const Runs& some, dim3 blocks, auto numbers) {
               Launch(stream, MuonMomentumKernel<numbers(), U>, blocks, kThreads, 0, momentum,
                      nesterov, some, Data<double>(step), Data<float>(g), Data<float>(buf),
                      Data<U>(u));
             });
  });
}

void NewtonSchulz(Stream& stream, const NewtonSchulzOptions& options, Tensor& x) {
  const int rank = x.shape().rank();
  CHECK(rank == 2 || rank == 3);
  Tensor all = rank == 3 ? x : x.Reshape({1, x.dim(0), x.dim(1)});
  if (all.elements() == 0) return;
  if (NewtonSchulzIsSmall(x.dtype(), all.dim(1), all.dim(2)) &&
      NewtonSchulzShared(all.dim(1), all.dim(2)) + 1024 <= QueueOf(stream).shared_bytes) {
    return NewtonSchulzSmall(stream, options, all);
  }
  const int64_t n = std::min(all.dim(1), all.dim(2));
  const int64_t bytes = (2 * n * n + all.dim(1) * all.dim(2)) * SizeOf(x.dtype());
  const int64_t most = std::clamp(kWorkspaceBytes / bytes, int64_t{1}, kMostMatrices);
  const int64_t batches = CeilDiv(all.dim(0), most);
  const int64_t batch = CeilDiv(all.dim(0), batches);
  for (int64_t begin = 0; begin < all.dim(0); begin += batch) {
    Tensor some = all.Rows(begin, std::min(begin + batch, all.dim(0)));
    NewtonSchulzRun(stream, options, some).Run();
  }
}

void MuonApply(Stream& stream, double scale, double decay, const Tensor& step, FlatRuns runs,
               const Tensor& o, Tensor& p, Tensor& copy) {
  DispatchActivation(o.dtype(), [&](auto from) {
    DispatchCopy(copy, p.elements(), [&](auto to) {
      using O = decltype(from);
      using C = decltype(to);
      const bool aligned = Deal::AtBoundary(Data<O>(o)) && Deal::AtBoundary(Data<float>(p)) &&
                           Deal::AtBoundary(Data<C>(copy));
      EachRuns(runs, p.elements(), o.elements(), aligned,
               [&](const Runs& some, dim3 blocks, auto numbers) {
                 Launch(stream, MuonApplyKernel<numbers(), O, C>, blocks, kThreads, 0, scale, decay,
                        some, Data<double>(step), Data<O>(o), Data<float>(p), Data<C>(copy));
               });
    });
  });
}

void SumSquares(Stream& stream, const Tensor& x, Tensor& sum) { AddUp<Square>(stream, x, sum); }

void Sum(Stream& stream, const Tensor& x, Tensor& total) { AddUp<Itself>(stream, x, total); }

}  // namespace mneme::gpu
