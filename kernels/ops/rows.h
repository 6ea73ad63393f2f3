// Rows by id: gather, scatter-add in a fixed order, unique ids.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// out[i] = table[ids[i]]. table [R, W], ids i32 or i64 [n], out [n, W].
using GatherRowsFn = void(Stream&, const Tensor& table, const Tensor& ids, Tensor& out);
// dtable[ids[i]] += dout[i], in rising order of i: the same bits every time.
using ScatterAddRowsFn = void(Stream&, const Tensor& dout, const Tensor& ids, Tensor& dtable);
// The distinct ids by owner, id % owners, rising inside, each by its number there, id / owners:
// unique i64 [n], in its first Σ counts places; inverse i32 [n]: place of ids[i] there; counts i64
// [owners]: distinct ids of each. ids i64 [n] in [0, rows).
using UniqueIdsFn = void(Stream&, const Tensor& ids, int64_t rows, Tensor& unique, Tensor& inverse,
                         Tensor& counts);

namespace cpu {
GatherRowsFn GatherRows;
ScatterAddRowsFn ScatterAddRows;
UniqueIdsFn UniqueIds;
}  // namespace cpu
namespace gpu {
GatherRowsFn GatherRows;
ScatterAddRowsFn ScatterAddRows;
UniqueIdsFn UniqueIds;
}  // namespace gpu

}  // namespace mneme
