// Row numbers in rising order: what table.cu and rows.cu sum by.
#pragma once

#include "kernels/ops/table.h"

namespace mneme::gpu {

// groups.keys and groups.order of ids, parts i32 or i64 [n] in [0, rows).
void SortRows(Stream& stream, RowParts ids, int64_t rows, RowGroups& groups);
// The same of some requests: those whose numbers are chosen, i32 [n], rising, of ids i32.
void SortChosen(Stream& stream, const Tensor& ids, const Tensor& chosen, int64_t rows,
                RowGroups& groups);

}  // namespace mneme::gpu
