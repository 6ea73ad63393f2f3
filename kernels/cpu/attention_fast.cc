// Attention over blocks of queries and keys: products by BLAS, an online softmax between them,
// memory linear in the length. A task is one head of one sample. Keys are packed once a task, own
// part and rotary part side by side; blocks that no query of the block may see are skipped, those
// on a border are masked row by row.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {
namespace {

constexpr int64_t kQueries = 64;
constexpr int64_t kKeys = 256;

struct Range {
  int64_t begin;
  int64_t end;
  int64_t size() const { return end - begin; }
};

// One head of one sample, and a worker's memory.
template <class T>
struct Task {
  const AttentionShape& n;
  T scale;
  int64_t width;     // of a query or key
  int64_t q_stride;  // from one position to the next
  int64_t kv_stride;
  int64_t out_stride;
  const T* q;
  const T* kv;
  const T* k_pe;
  const int32_t* start;
  T* keys;    // [length, width]
  T* scores;  // [kQueries, kKeys]

  const T* value() const { return kv + n.nope; }

  void PackKeys() const {
    for (int64_t s = 0; s < n.length; ++s) {
      std::copy_n(kv + s * kv_stride, n.nope, keys + s * width);
      std::copy_n(k_pe + s * n.rope, n.rope, keys + s * width + n.nope);
    }
  }
  // The keys that some query of the block sees, and those of them that query t sees.
  Range Seen(Range block) const {
    const int32_t first = *std::min_element(start + block.begin, start + block.end);
    return {first, block.end};
  }
  Range SeenBy(int64_t t, Range key_block) const {
    const int64_t begin = std::clamp<int64_t>(start[t], key_block.begin, key_block.end);
    return {begin, std::clamp<int64_t>(t + 1, begin, key_block.end)};
  }
  // scores = scale · queries · keysᵀ; row stride is the key block's size.
  void Scores(Range queries, Range key_block) const {
    Gemm<T>(Trans::kNo, Trans::kYes, queries.size(), key_block.size(), width, scale,
            q + queries.begin * q_stride, q_stride, keys + key_block.begin * width, width, T{0},
            scores, key_block.size());
  }
};

template <class T>
T Largest(const T* x, int64_t n, T start) {
  T most = start;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// x ← e^(x − shift); returns the sum.
template <class T>
T ExpRow(T* x, int64_t n, T shift) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    x[i] = Exp(x[i] - shift);
    sum += x[i];
  }
  return sum;
}

template <class T>
void Zero(T* x, int64_t n) {
  std::fill_n(x, n, T{0});
}

// Turns one row of scores into weights relative to the largest so far, and brings what was summed
// before to the same footing.
template <class T>
void OnlineSoftmax(T* row, int64_t width, Range seen, int64_t value, T& most, T& sum, T* out) {
  Zero(row, seen.begin);
  Zero(row + seen.end, width - seen.end);
  if (seen.size() <= 0) return;
  const T now = Largest(row + seen.begin, seen.size(), most);
  const T share = ExpRow(row + seen.begin, seen.size(), now);
  if (most == -INFINITY) {
    Zero(out, value);
    sum = share;
  } else {
    const T keep = Exp(most - now);
    sum = sum * keep + share;
    for (int64_t i = 0; i < value; ++i) out[i] *= keep;
  }
  most = now;
}

template <class T>
void ForwardBlock(const Task<T>& task, Range queries, T* out, T* lse) {
  T most[kQueries];
  T sum[kQueries];
  std::fill_n(most, kQueries, -static_cast<T>(INFINITY));
  std::fill_n(sum, kQueries, T{0});
  const AttentionShape& n = task.n;
  const Range seen = task.Seen(queries);
  for (int64_t j = seen.begin; j < seen.end; j += kKeys) {
    const Range keys{j, std::min(seen.end, j + kKeys)};
    task.Scores(queries, keys);
    for (int64_t t = queries.begin; t < queries.end; ++t) {
      const int64_t i = t - queries.begin;
      const Range mine = task.SeenBy(t, keys);
      OnlineSoftmax<T>(task.scores + i * keys.size(), keys.size(), {mine.begin - j, mine.end - j},
                       n.value, most[i], sum[i], out + t * task.out_stride);
    }
    Gemm<T>(Trans::kNo, Trans::kNo, queries.size(), n.value, keys.size(), T{1}, task.scores,
            keys.size(), task.value() + j * task.kv_stride, task.kv_stride,
            j == seen.begin ? T{0} : T{1}, out + queries.begin * task.out_stride, task.out_stride);
  }
  for (int64_t t = queries.begin; t < queries.end; ++t) {
    const int64_t i = t - queries.begin;
    const T inverse = T{1} / sum[i];
    for (int64_t v = 0; v < n.value; ++v) out[t * task.out_stride + v] *= inverse;
    lse[t * n.heads] = most[i] + std::log(sum[i]);
  }
}

// What the gradient of one head needs beside its Task.
template <class T>
struct GradTask {
  const T* dout;
  const T* out;
  const T* lse;
  T* dq;
  T* d_value;   // inside dkv, strides as kv
  T* d_keys;    // [length, width], worker's
  T* d_scores;  // [kQueries, kKeys], worker's
  T* delta;     // [length], worker's: Σ dout · out of each query
};

// scores ← probabilities; d_scores from those of the probabilities to those of the unscaled scores.
template <class T>
void GradRow(T* p, T* d, Range seen, int64_t width, T lse, T delta, T scale) {
  Zero(p, seen.begin);
  Zero(d, seen.begin);
  Zero(p + seen.end, width - seen.end);
  Zero(d + seen.end, width - seen.end);
#pragma omp simd
  for (int64_t i = seen.begin; i < seen.end; ++i) {
    p[i] = Exp(p[i] - lse);
    d[i] = scale * p[i] * (d[i] - delta);
  }
}

template <class T>
void BackwardBlock(const Task<T>& task, const GradTask<T>& grad, Range queries, Range keys,
                   bool first) {
  const AttentionShape& n = task.n;
  const int64_t rows = queries.size();
  const int64_t cols = keys.size();
  const T* q = task.q + queries.begin * task.q_stride;
  const T* dout = grad.dout + queries.begin * task.out_stride;
  task.Scores(queries, keys);
  Gemm<T>(Trans::kNo, Trans::kYes, rows, cols, n.value, T{1}, dout, task.out_stride,
          task.value() + keys.begin * task.kv_stride, task.kv_stride, T{0}, grad.d_scores, cols);
  for (int64_t t = queries.begin; t < queries.end; ++t) {
    const Range mine = task.SeenBy(t, keys);
    const int64_t at = (t - queries.begin) * cols;
    GradRow<T>(task.scores + at, grad.d_scores + at,
               {mine.begin - keys.begin, mine.end - keys.begin}, cols, grad.lse[t * n.heads],
               grad.delta[t], task.scale);
  }
  Gemm<T>(Trans::kYes, Trans::kNo, cols, n.value, rows, T{1}, task.scores, cols, dout,
          task.out_stride, T{1}, grad.d_value + keys.begin * task.kv_stride, task.kv_stride);
  Gemm<T>(Trans::kNo, Trans::kNo, rows, task.width, cols, T{1}, grad.d_scores, cols,
          task.keys + keys.begin * task.width, task.width, first ? T{0} : T{1},
          grad.dq + queries.begin * task.q_stride, task.q_stride);
  Gemm<T>(Trans::kYes, Trans::kNo, cols, task.width, rows, T{1}, grad.d_scores, cols, q,
          task.q_stride, T{1}, grad.d_keys + keys.begin * task.width, task.width);
}

template <class T>
void Backward(const Task<T>& task, const GradTask<T>& grad, T* d_nope, T* d_pe) {
  const AttentionShape& n = task.n;
  Zero(grad.d_keys, n.length * task.width);
  for (int64_t t = 0; t < n.length; ++t) {
    Zero(grad.d_value + t * task.kv_stride, n.value);
    const T* d = grad.dout + t * task.out_stride;
    const T* o = grad.out + t * task.out_stride;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n.value; ++i) sum += d[i] * o[i];
    grad.delta[t] = sum;
  }
  for (int64_t i = 0; i < n.length; i += kQueries) {
    const Range queries{i, std::min(n.length, i + kQueries)};
    const Range seen = task.Seen(queries);
    for (int64_t j = seen.begin; j < seen.end; j += kKeys) {
      BackwardBlock<T>(task, grad, queries, {j, std::min(seen.end, j + kKeys)}, j == seen.begin);
    }
  }
  for (int64_t s = 0; s < n.length; ++s) {
    const T* from = grad.d_keys + s * task.width;
    std::copy_n(from, n.nope, d_nope + s * task.kv_stride);
    std::copy_n(from + n.nope, n.rope, d_pe + s * n.rope);
  }
}

template <class T>
Task<T> MakeTask(const AttentionShape& n, double scale, int64_t row, int64_t head, const Tensor& q,
                 const Tensor& kv, const Tensor& k_pe, const Tensor& doc_start, T* memory) {
  const int64_t width = n.nope + n.rope;
  const int64_t first = row * n.length;
  return {.n = n,
          .scale = static_cast<T>(scale),
          .width = width,
          .q_stride = n.heads * width,
          .kv_stride = n.heads * (n.nope + n.value),
          .out_stride = n.heads * n.value,
          .q = q.data<T>() + (first * n.heads + head) * width,
          .kv = kv.data<T>() + (first * n.heads + head) * (n.nope + n.value),
          .k_pe = k_pe.data<T>() + first * n.rope,
          .start = doc_start.data<int32_t>() + first,
          .keys = memory,
          .scores = memory + n.length * width};
}

void CheckShapes(const AttentionShape& n, const Tensor& q, const Tensor& kv, const Tensor& k_pe,
                 const Tensor& doc_start, const Tensor& lse) {
  const int64_t tokens = n.rows * n.length;
  CHECK_EQ(q.elements(), tokens * n.heads * (n.nope + n.rope));
  CHECK_EQ(kv.elements(), tokens * n.heads * (n.nope + n.value));
  CHECK_EQ(k_pe.elements(), tokens * n.rope);
  CHECK_EQ(doc_start.elements(), tokens);
  CHECK_EQ(lse.elements(), tokens * n.heads);
}

// dk_pe of a token is the sum over heads, in their order. parts [rows, heads, length, rope].
template <class T>
void SumHeads(const AttentionShape& n, const T* parts, T* dk_pe) {
  const int64_t piece = n.length * n.rope;
  ParallelFor(n.rows, 1, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* to = dk_pe + row * piece;
      std::copy_n(parts + row * n.heads * piece, piece, to);
      for (int64_t h = 1; h < n.heads; ++h) {
        const T* from = parts + (row * n.heads + h) * piece;
        for (int64_t i = 0; i < piece; ++i) to[i] += from[i];
      }
    }
  });
}

}  // namespace

void AttentionFast(Stream& stream, const AttentionShape& n, double scale, const Tensor& q,
                   const Tensor& kv, const Tensor& k_pe, const Tensor& doc_start, Tensor& out,
                   Tensor& lse) {
  CheckShapes(n, q, kv, k_pe, doc_start, lse);
  const int64_t tasks = n.rows * n.heads;
  const int64_t each = n.length * (n.nope + n.rope) + kQueries * kKeys;
  Tensor memory = Tensor::Empty(stream, q.dtype(), {Workers(tasks), each}, MemoryTag::kWorkspace);
  DispatchReal(q.dtype(), [&](auto real) {
    using T = decltype(real);
    ParallelTasks(tasks, [&](int64_t index, int64_t worker) {
      const int64_t row = index / n.heads;
      const int64_t head = index % n.heads;
      const Task<T> task = MakeTask<T>(n, scale, row, head, q, kv, k_pe, doc_start,
                                       memory.data<T>() + worker * each);
      task.PackKeys();
      const int64_t at = row * n.length * n.heads + head;
      for (int64_t i = 0; i < n.length; i += kQueries) {
        ForwardBlock<T>(task, {i, std::min(n.length, i + kQueries)}, out.data<T>() + at * n.value,
                        lse.data<T>() + at);
      }
    });
  });
}

void AttentionGradFast(Stream& stream, const AttentionShape& n, double scale, const Tensor& dout,
                       const Tensor& q, const Tensor& kv, const Tensor& k_pe,
                       const Tensor& doc_start, const Tensor& out, const Tensor& lse, Tensor& dq,
                       Tensor& dkv, Tensor& dk_pe) {
  CheckShapes(n, q, kv, k_pe, doc_start, lse);
  CHECK_EQ(dq.elements(), q.elements());
  CHECK_EQ(dkv.elements(), kv.elements());
  CHECK_EQ(dk_pe.elements(), k_pe.elements());
  const int64_t tasks = n.rows * n.heads;
  const int64_t keys = n.length * (n.nope + n.rope);
  const int64_t each = 2 * keys + 2 * kQueries * kKeys + n.length;
  Tensor memory = Tensor::Empty(stream, q.dtype(), {Workers(tasks), each}, MemoryTag::kWorkspace);
  Tensor parts = Tensor::Empty(stream, q.dtype(), {tasks, n.length, n.rope}, MemoryTag::kWorkspace);
  DispatchReal(q.dtype(), [&](auto real) {
    using T = decltype(real);
    ParallelTasks(tasks, [&](int64_t index, int64_t worker) {
      const int64_t row = index / n.heads;
      const int64_t head = index % n.heads;
      T* mine = memory.data<T>() + worker * each;
      const Task<T> task = MakeTask<T>(n, scale, row, head, q, kv, k_pe, doc_start, mine);
      task.PackKeys();
      const int64_t at = row * n.length * n.heads + head;
      T* more = mine + keys + kQueries * kKeys;
      T* d_nope = dkv.data<T>() + at * (n.nope + n.value);
      const GradTask<T> grad{.dout = dout.data<T>() + at * n.value,
                             .out = out.data<T>() + at * n.value,
                             .lse = lse.data<T>() + at,
                             .dq = dq.data<T>() + at * task.width,
                             .d_value = d_nope + n.nope,
                             .d_keys = more,
                             .d_scores = more + keys,
                             .delta = more + keys + kQueries * kKeys};
      Backward<T>(task, grad, d_nope, parts.data<T>() + index * n.length * n.rope);
    });
    SumHeads<T>(n, parts.data<T>(), dk_pe.data<T>());
  });
}

}  // namespace mneme::cpu
