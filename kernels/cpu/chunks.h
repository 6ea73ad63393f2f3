// Rows cut into a number of pieces that depends on the row count alone: whatever sums over rows
// does it piece by piece and adds the pieces in order, so that results do not depend on the number
// of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {

inline constexpr int64_t kMaxChunks = 16;     // private sums are so many times their width
inline constexpr int64_t kMinChunkRows = 32;  // fewer rows than twice that are one piece

// Number of pieces for `rows` rows, at least 1.
inline int64_t ChunkCount(int64_t rows) {
  return std::clamp<int64_t>(rows / kMinChunkRows, 1, kMaxChunks);
}

// Calls f(chunk, begin, end) for each piece, in parallel.
template <class F>
void ForChunks(int64_t rows, F&& f) {
  const int64_t chunks = ChunkCount(rows);
  ParallelTasks(chunks, [&](int64_t c) { f(c, rows * c / chunks, rows * (c + 1) / chunks); });
}

// Calls f(row) for each row of `width` elements, in parallel; rows do not meet.
template <class F>
void ForRows(int64_t rows, int64_t width, F&& f) {
  ParallelFor(rows, RowGrain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

// Sums of `width` values, one private row a chunk, added to their destination in chunk order.
template <class T>
class ChunkSums {
 public:
  ChunkSums(int64_t rows, int64_t width)
      : chunks_(ChunkCount(rows)), width_(width), sums_(static_cast<size_t>(chunks_ * width)) {}

  // [width], zeros at first; written by whoever has the chunk.
  T* row(int64_t chunk) { return sums_.data() + chunk * width_; }

  // out [width] += the sums, in chunk order. After all chunks are done.
  template <class U>
  void AddTo(U* out) const {
    for (int64_t i = 0; i < width_; ++i) {
      T sum = 0;
      for (int64_t c = 0; c < chunks_; ++c) sum += sums_[static_cast<size_t>(c * width_ + i)];
      out[i] = static_cast<U>(out[i] + sum);
    }
  }

 private:
  int64_t chunks_;
  int64_t width_;
  std::vector<T> sums_;
};

// ⟨a, b⟩ over n values; the order of the sum is fixed by the build.
template <class T>
T Dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace mneme::cpu
