// Parts of a tensor, one a member of a group: for the files that implement Comm.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace mneme {

// Where each part begins, and where the last one ends: [members + 1].
inline std::vector<int64_t> PartStarts(absl::Span<const int64_t> counts) {
  std::vector<int64_t> starts(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), starts.begin() + 1);
  return starts;
}

// Bytes of one row of the outermost dim.
inline int64_t RowBytes(const Tensor& x) {
  int64_t bytes = SizeOf(x.dtype());
  for (int i = 1; i < x.shape().rank(); ++i) bytes *= x.dim(i);
  return bytes;
}

// A tensor's memory as bytes; of a device it is an address only.
inline const char* BytesOf(const Tensor& x) { return static_cast<const char*>(x.raw()); }
inline char* BytesOf(Tensor& x) { return static_cast<char*>(x.raw()); }

}  // namespace mneme
