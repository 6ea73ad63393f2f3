#include "kernels/ops/rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {
namespace {

// Calls f with the ids as they are stored: int32_t or int64_t.
template <class F>
void WithIds(const Tensor& ids, F&& f) {
  if (ids.dtype() == DType::kI32) {
    f(ids.data<int32_t>());
  } else {
    f(ids.data<int64_t>());
  }
}

}  // namespace

void GatherRows(Stream&, const Tensor& table, const Tensor& ids, Tensor& out) {
  const int64_t rows = table.dim(0);
  const int64_t n = ids.elements();
  CHECK_EQ(Name(table.dtype()), Name(out.dtype()));
  CHECK_EQ(out.elements() * rows, n * table.elements());
  if (n == 0) return;
  const int64_t row_bytes = table.bytes() / rows;
  const char* from = static_cast<const char*>(table.raw());
  char* to = static_cast<char*>(out.raw());
  WithIds(ids, [&](const auto* id) {
    ParallelFor(n, RowGrain(row_bytes / 4), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        CHECK_LE(0, id[i]);
        CHECK_LT(int64_t{id[i]}, rows);
        std::memcpy(to + i * row_bytes, from + id[i] * row_bytes, static_cast<size_t>(row_bytes));
      }
    });
  });
}

// Every thread walks all ids and adds the rows that are its own, row number modulo the team: each
// row's sum is made by one thread in rising order, and a hot row's neighbours fall to others.
void ScatterAddRows(Stream&, const Tensor& dout, const Tensor& ids, Tensor& dtable) {
  const int64_t rows = dtable.dim(0);
  const int64_t n = ids.elements();
  CHECK_EQ(dout.elements() * rows, n * dtable.elements());
  if (n == 0) return;
  const int64_t width = dtable.elements() / rows;
  const int64_t parts = n >= 2 * RowGrain(width) ? omp_get_max_threads() : 1;
  DispatchReal(dtable.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* from = dout.data<T>();
    T* to = dtable.data<T>();
    WithIds(ids, [&](const auto* id) {
      ParallelTasks(parts, [=](int64_t part) {
        for (int64_t i = 0; i < n; ++i) {
          CHECK_LE(0, id[i]);
          CHECK_LT(int64_t{id[i]}, rows);
          if (parts > 1 && id[i] % parts != part) continue;
          T* row = to + id[i] * width;
          for (int64_t j = 0; j < width; ++j) row[j] += from[i * width + j];
        }
      });
    });
  });
}

// Keys in the order of the result: owner · span + number there.
void UniqueIds(Stream&, const Tensor& ids, int64_t rows, Tensor& unique, Tensor& inverse,
               Tensor& counts) {
  const int64_t n = ids.elements();
  CHECK_EQ(unique.elements(), n);
  CHECK_EQ(inverse.elements(), n);
  const int64_t owners = counts.elements();
  const int64_t span = (rows + owners - 1) / owners;
  const int64_t* id = ids.data<int64_t>();
  int64_t* distinct = unique.data<int64_t>();
  int32_t* place = inverse.data<int32_t>();
  int64_t* count = counts.data<int64_t>();
  const auto key_of = [=](int64_t row) { return row % owners * span + row / owners; };
  for (int64_t i = 0; i < n; ++i) {
    CHECK_LE(int64_t{0}, id[i]);
    CHECK_LT(id[i], rows);
    distinct[i] = key_of(id[i]);
  }
  std::sort(distinct, distinct + n);
  int64_t* end = std::unique(distinct, distinct + n);
  ParallelFor(n, 1024, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t* at = std::lower_bound<const int64_t*>(distinct, end, key_of(id[i]));
      place[i] = static_cast<int32_t>(at - distinct);
    }
  });
  std::fill(count, count + owners, int64_t{0});
  for (int64_t* key = distinct; key != end; ++key) {
    ++count[*key / span];
    *key %= span;
  }
}

}  // namespace mneme::cpu
