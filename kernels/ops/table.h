// Tables of rows that live whole on one device: first values, rows by hash, and the update of the
// rows that a step asked for (docs/mathematics.md).
//
// A step's gradients stay where they arrive, one part a micro-batch: request i of the step is row
// i % n of part i / n, for parts of n rows. They are grouped by row (group_rows), summed for the
// norm (sum_groups), and summed again or read back while the rows move (adam_groups). Every shape
// follows from the number of requests; how many distinct rows there are stays on the device.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/core/random.h"
#include "kernels/core/tensor.h"
#include "kernels/ops/engram.h"
#include "kernels/ops/update.h"

namespace mneme {

// values[i] = std · normal number first + i of `key`: FillNormal of kernels/core/random.h, to the
// bit.
using NormalRowsFn = void(Stream&, RandomKey key, uint64_t first, double std, Tensor& values);

// rows i64 [T, K] as NgramRows makes them, and out[t, k] = table[rows[t, k]], converted: all orders
// and heads of a layer at once. table [R, W], out [T K, W]. (One launch for all layers would keep
// the rows of the last from the start of a step on, to save a launch of some microseconds a layer.)
using NgramGatherFn = void(Stream&, const NgramHash&, const Tensor& tokens, const Tensor& canonical,
                           int64_t length, const Tensor& doc_start, const Tensor& table,
                           Tensor& rows, Tensor& out);

// Parts of a step: equal shapes.
using RowParts = absl::Span<const Tensor>;

// A group of as many requests or more has its sum kept.
inline constexpr int64_t kLongGroup = 5;

// The n requests of a step by rising row, those of one row in their order. Made by the ops.
struct RowGroups {
  Tensor keys;   // i32 [n] their rows
  Tensor order;  // i32 [n] their numbers
  Tensor heads;  // i32 [n] place of the first request of each distinct row, in `count` places
  Tensor count;  // i64 [1] distinct rows
  // R [n / kLongGroup + 1, W] sums of long groups, by sum_groups: of the one that begins at place s
  // in row s / kLongGroup.
  Tensor sums;
};

// ids: parts i64 [n], each in [0, rows). Makes all but the sums.
// seen i64 [2], where defined: += requests, += distinct rows.
// REQUIRES: fewer than 2³¹ rows and requests, at most kMostParts parts.
inline constexpr int kMostParts = 256;
using GroupRowsFn = void(Stream&, RowParts ids, int64_t rows, RowGroups&, Tensor& seen);
// squares f64 [1] += Σ over distinct rows of |Σ of its requests' gradients|². grads: parts [n, W]
// of any real dtype.
using SumGroupsFn = void(Stream&, RowParts grads, RowGroups&, Tensor& squares);
// One step of Adam for the rows of the groups, after sum_groups. marks i32 [⌈R / 32⌉]: bit r % 32
// of word r / 32 says that row r is materialised; rows of the groups become so. Under `dense` every
// materialised row moves, without a request by a gradient of 0. m, v, p [R, W].
using AdamGroupsFn = void(Stream&, const AdamOptions&, bool dense, const Tensor& step,
                          RowParts grads, const RowGroups&, Tensor& marks, Tensor& m, Tensor& v,
                          Tensor& p);

// table[ids[i]] = rows[i]; ids i64 [n], distinct.
using PutRowsFn = void(Stream&, const Tensor& rows, const Tensor& ids, Tensor& table);
// Sets the marks of ids i64 [n].
using MarkRowsFn = void(Stream&, const Tensor& ids, Tensor& marks);
// count i64 [1] = marks that are set.
using CountMarksFn = void(Stream&, const Tensor& marks, Tensor& count);

namespace cpu {
NormalRowsFn NormalRows;
NgramGatherFn NgramGather;
GroupRowsFn GroupRows;
SumGroupsFn SumGroups;
AdamGroupsFn AdamGroups;
PutRowsFn PutRows;
MarkRowsFn MarkRows;
CountMarksFn CountMarks;
}  // namespace cpu
namespace gpu {
NormalRowsFn NormalRows;
NgramGatherFn NgramGather;
GroupRowsFn GroupRows;
SumGroupsFn SumGroups;
AdamGroupsFn AdamGroups;
PutRowsFn PutRows;
MarkRowsFn MarkRows;
CountMarksFn CountMarks;
}  // namespace gpu

}  // namespace mneme
