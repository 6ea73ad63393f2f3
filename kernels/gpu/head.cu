// Output projection and cross-entropy in chunks of tokens. A chunk: logits = x · wᵀ (cuBLASLt), one
// kernel that turns each row of logits into its loss and, in place, its gradient, then dx = d · w
// and dw += dᵀ · x (cuBLASLt, dw in f32).
//
// Logits are kept in the activations' dtype. In bf16 they then cross memory with 10 bytes each
// (made 2, kernel 2 + 2, products 2 + 2) instead of 14 with f32 logits, and their rounding, at most
// 2⁻⁹ of a logit and without a lean, is of the size of what x and w carry already. All statistics
// of the softmax are f32.
//
// The kernel: one block a row, two small blocks a multiprocessor where each can keep its row in
// shared memory, else a large one. A first pass keeps a running maximum and sum a thread, a second
// writes the gradient. Between them as much of the row as fits waits in shared memory; the rest is
// read again, last part first, while it is still in L2. So device memory sees one read and one
// write. Rows that do not count are only zeroed.
//
// Floor at the 27B shape (T 16,384, D 2,560, V 129,280): products 3 · 10.8 TFLOP = 41 ms at
// 790 TFLOP/s; logits 2.1e9: 4 bytes each in the kernel, 8.5 GB = 2.0 ms at 4.3 TB/s; dw is read
// and written by each chunk, 2.65 GB = 0.6 ms, in the epilogue of its product. At the sweep shape
// (T 32,768, D 512, V 32,768): 3.3 TFLOP = 4.2 ms, 4.3 GB = 1.0 ms.
// Measured on an H100 (copy 2.98 TB/s, products 800 TFLOP/s): the kernel 2.9 TB/s at both shapes,
// 97 % of a copy; the op 42.8 ms at the 27B shape, 94 % of the floor of its products, of which the
// kernel 2.9; 5.8 ms at the sweep shape, of which the kernel 1.5. Making logits in pieces that stay
// in L2 was slower there (6.3): the pieces' products are too thin.
#include <algorithm>
#include <cmath>

#include "kernels/gpu/blas.h"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/head.h"

namespace mneme::gpu {
namespace {

constexpr int64_t kLogitsBytes = int64_t{2} << 30;  // of one chunk
constexpr int64_t kChunkStep = 256;                 // tokens: whole tiles of a product
constexpr int kUnroll = 4;                          // vectors that a thread has in flight
constexpr int64_t kReservedShared = 2048;           // a block's own and the system's
// Two blocks of 512 threads a multiprocessor where each can keep its row, else one of 1,024.
constexpr int kSmallBlock = 512;
constexpr int kLargeBlock = 1024;
constexpr int kThreadsPerMultiprocessor = 1024;
// Bytes of a row that a block takes at a time.
template <int kThreads>
inline constexpr int64_t kBatchBytes = int64_t{kThreads} * kUnroll * 16;
constexpr int64_t kSmallBlockRow = 3 * kBatchBytes<kSmallBlock>;

// Stands for no maximum yet: low, and yet safe to multiply.
constexpr float kLowest = -1e30f;

// exp(x − most). Rounding in the exponent is no matter in bf16.
__device__ __forceinline__ float ExpAbove(float x, float most, bf16) {
  constexpr float kLog2E = 1.4426950408889634f;
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fmaf(x, kLog2E, -most * kLog2E)));
  return y;
}
__device__ __forceinline__ float ExpAbove(float x, float most, float) { return expf(x - most); }

// A maximum and the sum of exponentials above it.
struct Softmax {
  float most = kLowest;
  float sum = 0;

  template <class T, int N>
  __device__ __forceinline__ void Add(const float (&x)[N]) {
    float top = x[0];
#pragma unroll
    for (int i = 1; i < N; ++i) top = fmaxf(top, x[i]);
    if (top > most) {
      sum *= ExpAbove(most, top, T{});
      most = top;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += ExpAbove(x[i], most, T{});
  }
};

struct Row {
  int64_t vocab;
  int64_t vectors;       // of 16 bytes, the last one perhaps not full
  int64_t kept_batches;  // that shared memory holds
};

// A vector of the row as floats; what lies past the vocabulary counts for nothing.
template <class T, int N>
__device__ __forceinline__ void Unpack(const uint4& raw, int64_t vector, int64_t vocab,
                                       float (&x)[N]) {
  const Vec<T, N> from = reinterpret_cast<const Vec<T, N>&>(raw);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = ToFloat(from.v[i]);
  if ((vector + 1) * N <= vocab) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (vector * N + i >= vocab) x[i] = -INFINITY;
  }
}

template <int kThreads, class T>
__device__ Softmax FirstPass(const Row& row, const uint4* logits, uint4* kept) {
  constexpr int kN = kVec<T>;
  Softmax softmax;
  const int64_t batches = (row.vectors + kThreads * kUnroll - 1) / (kThreads * kUnroll);
  for (int64_t batch = 0; batch < batches; ++batch) {
    const int64_t first = batch * kThreads * kUnroll + threadIdx.x;
    uint4 raw[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t v = first + u * kThreads;
      if (v < row.vectors) raw[u] = logits[v];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t v = first + u * kThreads;
      if (v >= row.vectors) continue;
      if (batch < row.kept_batches) kept[v] = raw[u];
      float x[kN];
      Unpack<T>(raw[u], v, row.vocab, x);
      softmax.Add<T>(x);
    }
  }
  return softmax;
}

// scale · (exp(x − most) / sum − [target]) in place of x. `inverse` is scale / sum.
template <int kThreads, class T>
__device__ void SecondPass(const Row& row, float most, float inverse, float scale, int target,
                           const uint4* kept, uint4* logits) {
  constexpr int kN = kVec<T>;
  const int64_t batches = (row.vectors + kThreads * kUnroll - 1) / (kThreads * kUnroll);
  for (int64_t batch = batches - 1; batch >= 0; --batch) {
    const int64_t first = batch * kThreads * kUnroll + threadIdx.x;
    const uint4* from = batch < row.kept_batches ? kept : logits;
    uint4 raw[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t v = first + u * kThreads;
      if (v < row.vectors) raw[u] = from[v];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t v = first + u * kThreads;
      if (v >= row.vectors) continue;
      float x[kN];
      Unpack<T>(raw[u], v, row.vocab, x);
      Vec<T, kN> to;
#pragma unroll
      for (int i = 0; i < kN; ++i) x[i] = ExpAbove(x[i], most, T{}) * inverse;
      if (target / kN == v) {
#pragma unroll
        for (int i = 0; i < kN; ++i) x[i] -= target % kN == i ? scale : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kN; ++i) to.v[i] = FromFloat<T>(x[i]);
      __stcs(logits + v, reinterpret_cast<const uint4&>(to));
    }
  }
}

template <int kThreads, class T, bool kGradient>
__global__ void __launch_bounds__(kThreads, kThreadsPerMultiprocessor / kThreads)
    CrossEntropyKernel(Row row, const int32_t* targets, const float* scale, T* logits,
                       float* losses) {
  extern __shared__ uint4 kept[];
  const int64_t token = blockIdx.x;
  auto* mine = reinterpret_cast<uint4*>(logits) + token * row.vectors;
  const int target = targets[token];
  if (target < 0) {
    if (threadIdx.x == 0) losses[token] = 0;
    if constexpr (kGradient) {
      for (int64_t v = threadIdx.x; v < row.vectors; v += kThreads) mine[v] = uint4{};
    }
    return;
  }
  if (target >= row.vocab) __trap();
  const float at_target = ToFloat(logits[token * row.vectors * kVec<T> + target]);
  const Softmax softmax = FirstPass<kThreads, T>(row, mine, kept);
  const float most = BlockReduce(softmax.most, kLowest, Larger{});
  const float sum = BlockReduce(softmax.sum * ExpAbove(softmax.most, most, T{}));
  if (threadIdx.x == 0) losses[token] = most - at_target + logf(sum);
  if constexpr (kGradient) {
    SecondPass<kThreads, T>(row, most, *scale / sum, *scale, target, kept, mine);
  }
}

// Batches of a row that shared memory holds: as many as fit beside the other blocks.
int64_t KeptBatches(Stream& stream, int64_t row_bytes, int64_t batch_bytes, int64_t blocks) {
  int all = 0;
  Check(cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                               QueueOf(stream).device));
  return std::min(CeilDiv(row_bytes, batch_bytes), (all / blocks - kReservedShared) / batch_bytes);
}

template <int kThreads, class T>
void CrossEntropyOf(Stream& stream, Row row, bool gradient, const Tensor& targets,
                    const Tensor& scale, Tensor& logits, Tensor& losses) {
  if (gradient) {
    row.kept_batches = KeptBatches(stream, row.vectors * 16, kBatchBytes<kThreads>,
                                   kThreadsPerMultiprocessor / kThreads);
  }
  const auto kernel =
      gradient ? CrossEntropyKernel<kThreads, T, true> : CrossEntropyKernel<kThreads, T, false>;
  Launch(stream, kernel, dim3(static_cast<unsigned>(targets.elements())), kThreads,
         static_cast<size_t>(row.kept_batches * kBatchBytes<kThreads>), row, Data<int32_t>(targets),
         gradient ? Data<float>(scale) : nullptr, Data<T>(logits), Data<float>(losses));
}

template <class T>
void CrossEntropy(Stream& stream, int64_t vocab, bool gradient, const Tensor& targets,
                  const Tensor& scale, Tensor& logits, Tensor& losses) {
  const Row row = {vocab, logits.dim(1) / kVec<T>, 0};
  const auto run = row.vectors * 16 <= kSmallBlockRow ? CrossEntropyOf<kSmallBlock, T>
                                                      : CrossEntropyOf<kLargeBlock, T>;
  run(stream, row, gradient, targets, scale, logits, losses);
}

// Tokens of a chunk: equal chunks of whole tiles that keep the budget.
int64_t ChunkTokens(int64_t tokens, int64_t row_bytes) {
  const int64_t most = std::max(kLogitsBytes / row_bytes / kChunkStep, int64_t{1}) * kChunkStep;
  const int64_t chunks = std::max(CeilDiv(tokens, most), int64_t{1});
  return CeilDiv(CeilDiv(tokens, chunks), kChunkStep) * kChunkStep;
}

// logits = x · wᵀ. Rows of logits are dim(1) apart.
void Project(Stream& stream, const Tensor& x, const Tensor& w, Tensor& logits) {
  Multiply(stream, {.tb = Trans::kYes,
                    .m = x.dim(0),
                    .n = w.dim(0),
                    .k = x.dim(1),
                    .in = x.dtype(),
                    .out = logits.dtype(),
                    .a = x.raw(),
                    .b = w.raw(),
                    .c = logits.raw(),
                    .lda = x.dim(1),
                    .ldb = x.dim(1),
                    .ldc = logits.dim(1)});
}

// dx = d · w.
void InputGradient(Stream& stream, const Tensor& d, const Tensor& w, Tensor& dx) {
  Multiply(stream, {.m = dx.dim(0),
                    .n = dx.dim(1),
                    .k = w.dim(0),
                    .in = d.dtype(),
                    .out = dx.dtype(),
                    .a = d.raw(),
                    .b = w.raw(),
                    .c = dx.raw(),
                    .lda = d.dim(1),
                    .ldb = dx.dim(1),
                    .ldc = dx.dim(1)});
}

// dw += dᵀ · x.
void WeightGradient(Stream& stream, const Tensor& d, const Tensor& x, Tensor& dw) {
  Multiply(stream, {.ta = Trans::kYes,
                    .m = dw.dim(0),
                    .n = dw.dim(1),
                    .k = x.dim(0),
                    .in = d.dtype(),
                    .out = dw.dtype(),
                    .a = d.raw(),
                    .b = x.raw(),
                    .c = dw.raw(),
                    .lda = d.dim(1),
                    .ldb = x.dim(1),
                    .ldc = dw.dim(1),
                    .beta = 1.0f});
}

}  // namespace

void HeadLoss(Stream& stream, const Tensor& x, const Tensor& w, const Tensor& targets,
              const Tensor& scale, Tensor& losses, Tensor& dx, Tensor& dw) {
  const int64_t tokens = x.dim(0);
  const int64_t vocab = w.dim(0);
  CHECK_EQ(w.dim(1), x.dim(1));
  CHECK_EQ(targets.elements(), tokens);
  CHECK_EQ(losses.elements(), tokens);
  const bool gradient = dx.defined();
  const int64_t size = SizeOf(x.dtype());
  const int64_t row_bytes = CeilDiv(vocab * size, 16) * 16;
  const int64_t chunk = std::min(ChunkTokens(tokens, row_bytes), tokens);
  Tensor buffer =
      Tensor::Empty(stream, x.dtype(), {chunk, row_bytes / size}, MemoryTag::kWorkspace);
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t end = std::min(tokens, begin + chunk);
    const Tensor rows = x.Rows(begin, end);
    Tensor logits = buffer.Rows(0, end - begin);
    Tensor loss = losses.Flat(begin, end);
    Project(stream, rows, w, logits);
    DispatchActivation(x.dtype(), [&](auto real) {
      CrossEntropy<decltype(real)>(stream, vocab, gradient, targets.Flat(begin, end), scale, logits,
                                   loss);
    });
    if (!gradient) continue;
    Tensor dx_rows = dx.Rows(begin, end);
    InputGradient(stream, logits, w, dx_rows);
    WeightGradient(stream, logits, rows, dw);
  }
}

}  // namespace mneme::gpu
