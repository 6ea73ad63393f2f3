// Rows by id: gather, scatter-add in a fixed order; distinct ids, the sums of their requests, and
// their rows dealt to the requests.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme {

// out[i] = table[ids[i]]. table [R, W], ids i32 or i64 [n], out [n, W].
using GatherRowsFn = void(Stream&, const Tensor& table, const Tensor& ids, Tensor& out);
// dtable[ids[i]] += dout[i], in rising order of i: the same bits every time.
using ScatterAddRowsFn = void(Stream&, const Tensor& dout, const Tensor& ids, Tensor& dtable);
// The distinct ids by owner, id % owners, those of an owner in the order in which they are first
// asked for, each by its number there, id / owners: unique i64 [n], in its first u = Σ counts
// *places*; counts i64 [owners]: distinct ids of each. inverse i32 [n]: place of ids[i]. order i32
// [n], or undefined: the first request of each place, then the other requests, rising. ids i64 [n]
// in [0, rows), n < 2³⁰.
using UniqueIdsFn = void(Stream&, const Tensor& ids, int64_t rows, Tensor& unique, Tensor& inverse,
                         Tensor& order, Tensor& counts);
// out[p] = Σ dout[i] over the requests i of place p, in rising order of i. inverse, order: of
// unique_ids; dout [n, W], out [u, W].
using SumUniqueFn = void(Stream&, const Tensor& dout, const Tensor& inverse, const Tensor& order,
                         Tensor& out);
// out[i] = the row of place inverse[i]. The places [first, first + m) are rows of table [R, W] by
// their numbers own i64 [m]; the rows of the others came [u − m, W], in order. inverse i32 [n], out
// [n, W] in the dtype of `came`.
using DealRowsFn = void(Stream&, const Tensor& table, const Tensor& own, int64_t first,
                        const Tensor& came, const Tensor& inverse, Tensor& out);

namespace cpu {
GatherRowsFn GatherRows;
ScatterAddRowsFn ScatterAddRows;
UniqueIdsFn UniqueIds;
SumUniqueFn SumUnique;
DealRowsFn DealRows;
}  // namespace cpu
namespace gpu {
GatherRowsFn GatherRows;
ScatterAddRowsFn ScatterAddRows;
UniqueIdsFn UniqueIds;
SumUniqueFn SumUnique;
DealRowsFn DealRows;
}  // namespace gpu

}  // namespace mneme
