// Row numbers in rising order: what table.cu and rows.cu sum by.
#pragma once

#include "kernels/ops/table.h"

namespace mneme::gpu {

// groups.keys and groups.order of ids, parts i32 or i64 [n] in [0, rows).
void SortRows(Stream& stream, RowParts ids, int64_t rows, RowGroups& groups);

}  // namespace mneme::gpu
