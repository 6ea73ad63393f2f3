#include "kernels/ops/rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <vector>

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

// table[ids[i]] += from[i], in rising order of k, for i = which[k], or k itself where `which` is
// null. Every thread walks all ids and adds the rows that are its own, row number modulo the team:
// each row's sum is made by one thread, and a hot row's neighbours fall to others.
template <class Id>
void AddRows(int64_t n, int64_t width, const Tensor& from, const int32_t* which, const Id* ids,
             Tensor& table) {
  const int64_t rows = table.elements() / width;
  const int64_t parts = n >= 2 * RowGrain(width) ? omp_get_max_threads() : 1;
  DispatchReal(table.dtype(), [&](auto real) {
    using T = decltype(real);
    const T* add = from.data<T>();
    T* to = table.data<T>();
    ParallelTasks(parts, [=](int64_t part) {
      for (int64_t k = 0; k < n; ++k) {
        const int64_t i = which == nullptr ? k : which[k];
        CHECK_LE(0, ids[i]);
        CHECK_LT(int64_t{ids[i]}, rows);
        if (parts > 1 && ids[i] % parts != part) continue;
        T* row = to + ids[i] * width;
        for (int64_t j = 0; j < width; ++j) row[j] += add[i * width + j];
      }
    });
  });
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

void ScatterAddRows(Stream&, const Tensor& dout, const Tensor& ids, Tensor& dtable) {
  const int64_t rows = dtable.dim(0);
  const int64_t n = ids.elements();
  CHECK_EQ(dout.elements() * rows, n * dtable.elements());
  if (n == 0) return;
  const int64_t width = dtable.elements() / rows;
  WithIds(ids, [&](const auto* id) { AddRows(n, width, dout, nullptr, id, dtable); });
}

// The first request of every id by a table from ids to requests, half full at most.
void UniqueIds(Stream&, const Tensor& ids, int64_t rows, Tensor& unique, Tensor& inverse,
               Tensor& order, Tensor& counts) {
  const int64_t n = ids.elements();
  CHECK_EQ(unique.elements(), n);
  CHECK_EQ(inverse.elements(), n);
  CHECK_LT(n, int64_t{1} << 30);
  const int64_t owners = counts.elements();
  const int64_t* id = ids.data<int64_t>();
  int32_t* first = inverse.data<int32_t>();  // until the places are known
  int64_t* count = counts.data<int64_t>();
  std::fill(count, count + owners, int64_t{0});
  const auto bits =
      static_cast<int>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(2 * n - 1, 1))));
  std::vector<int32_t> claimed(size_t{1} << bits, -1);
  for (int64_t i = 0; i < n; ++i) {
    CHECK_LE(int64_t{0}, id[i]);
    CHECK_LT(id[i], rows);
    size_t at = (static_cast<uint64_t>(id[i]) * 0x9e3779b97f4a7c15) >> (64 - bits);
    while (claimed[at] >= 0 && id[claimed[at]] != id[i]) at = (at + 1) % claimed.size();
    if (claimed[at] < 0) {
      claimed[at] = static_cast<int32_t>(i);
      ++count[id[i] % owners];
    }
    first[i] = claimed[at];
  }
  std::vector<int64_t> next(static_cast<size_t>(owners), 0);
  std::partial_sum(count, count + owners - 1, next.begin() + 1);
  int64_t other = std::accumulate(count, count + owners, int64_t{0});
  int32_t* requests = order.defined() ? order.data<int32_t>() : nullptr;
  // A first request has its place before others look for it.
  for (int64_t i = 0; i < n; ++i) {
    if (first[i] < i) {
      first[i] = first[first[i]];
      if (requests != nullptr) requests[other++] = static_cast<int32_t>(i);
      continue;
    }
    const int64_t place = next[static_cast<size_t>(id[i] % owners)]++;
    unique.data<int64_t>()[place] = id[i] / owners;
    if (requests != nullptr) requests[place] = static_cast<int32_t>(i);
    first[i] = static_cast<int32_t>(place);
  }
}

void SumUnique(Stream& stream, const Tensor& dout, const Tensor& inverse, const Tensor& order,
               Tensor& out) {
  const int64_t n = inverse.elements();
  if (n == 0) return;
  const int64_t distinct = out.dim(0);
  const int64_t width = out.elements() / distinct;
  CHECK_EQ(dout.elements(), n * width);
  GatherRows(stream, dout.Reshape({n, width}), order.Rows(0, distinct), out);
  AddRows(n - distinct, width, dout, order.data<int32_t>() + distinct, inverse.data<int32_t>(),
          out);
}

void DealRows(Stream&, const Tensor& table, const Tensor& own, int64_t first, const Tensor& came,
              const Tensor& inverse, Tensor& out) {
  const int64_t n = inverse.elements();
  if (n == 0) return;
  CHECK_EQ(Name(table.dtype()), Name(out.dtype()));
  CHECK_EQ(Name(came.dtype()), Name(out.dtype()));
  const int64_t row_bytes = out.bytes() / n;
  CHECK_EQ(table.bytes(), table.dim(0) * row_bytes);
  CHECK_EQ(came.bytes(), came.dim(0) * row_bytes);
  const int64_t here = own.elements();
  const int64_t places = here + came.dim(0);
  const int64_t rows = table.dim(0);
  const int64_t* number = own.data<int64_t>();
  const int32_t* place = inverse.data<int32_t>();
  const auto* from_table = static_cast<const char*>(table.raw());
  const auto* from_others = static_cast<const char*>(came.raw());
  auto* to = static_cast<char*>(out.raw());
  ParallelFor(n, RowGrain(row_bytes / 4), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = place[i];
      CHECK_LE(int64_t{0}, p);
      CHECK_LT(p, places);
      const char* from = from_others + (p < first ? p : p - here) * row_bytes;
      if (p >= first && p < first + here) {
        CHECK_LE(int64_t{0}, number[p - first]);
        CHECK_LT(number[p - first], rows);
        from = from_table + number[p - first] * row_bytes;
      }
      std::memcpy(to + i * row_bytes, from, static_cast<size_t>(row_bytes));
    }
  });
}

}  // namespace mneme::cpu
