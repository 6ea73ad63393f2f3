// Tables of rows on one device, in plain loops: the definition of kernels/ops/table.h.
#include "kernels/ops/table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ops/rows.h"

namespace mneme::cpu {
namespace {

constexpr int64_t kMarks = 32;  // in a word

int64_t Requests(const RowGroups& groups) { return groups.keys.elements(); }

// One past the last place of group u.
int64_t GroupEnd(const RowGroups& groups, int64_t u) {
  return u + 1 < groups.count.data<int64_t>()[0] ? groups.heads.data<int32_t>()[u + 1]
                                                 : Requests(groups);
}

// sum [W] = the gradients of group u, in the order of their requests.
template <class T>
void SumGroup(RowParts grads, const RowGroups& groups, int64_t u, std::vector<T>& sum) {
  std::fill(sum.begin(), sum.end(), T{0});
  const int64_t rows = grads[0].dim(0);
  const auto width = static_cast<int64_t>(sum.size());
  for (int64_t place = groups.heads.data<int32_t>()[u]; place < GroupEnd(groups, u); ++place) {
    const int64_t i = groups.order.data<int32_t>()[place];
    const T* from = grads[static_cast<size_t>(i / rows)].data<T>() + i % rows * width;
    for (size_t j = 0; j < sum.size(); ++j) sum[j] += from[j];
  }
}

bool Marked(const Tensor& marks, int64_t row) {
  const auto word = static_cast<uint32_t>(marks.data<int32_t>()[row / kMarks]);
  return (word >> (row % kMarks) & 1) != 0;
}

void Mark(Tensor& marks, int64_t row) {
  int32_t& word = marks.data<int32_t>()[row / kMarks];
  word = static_cast<int32_t>(static_cast<uint32_t>(word) | uint32_t{1} << (row % kMarks));
}

}  // namespace

void NormalRows(Stream&, RandomKey key, uint64_t first, double std, Tensor& values) {
  DispatchReal(values.dtype(), [&](auto zero) {
    FillNormal(key, first, values.elements(), std, values.data<decltype(zero)>());
  });
}

void NgramGather(Stream& stream, const NgramHash& hash, const Tensor& tokens,
                 const Tensor& canonical, int64_t length, const Tensor& doc_start,
                 const Tensor& table, Tensor& rows, Tensor& out) {
  NgramRows(stream, hash, tokens, canonical, length, doc_start, rows);
  GatherRows(stream, table, rows.Reshape({rows.elements()}), out);
}

void GroupRows(Stream& stream, RowParts ids, int64_t rows, RowGroups& groups, Tensor& seen) {
  std::vector<int64_t> all;
  for (const Tensor& part : ids) {
    all.insert(all.end(), part.data<int64_t>(), part.data<int64_t>() + part.elements());
  }
  const auto n = static_cast<int64_t>(all.size());
  CHECK_LT(std::max(n, rows), int64_t{std::numeric_limits<int32_t>::max()});
  for (Tensor* t : {&groups.keys, &groups.order, &groups.heads}) {
    *t = Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange);
  }
  groups.count = Tensor::Empty(stream, DType::kI64, {1}, MemoryTag::kExchange);
  int32_t* order = groups.order.data<int32_t>();
  std::iota(order, order + n, 0);
  const auto row_of = [&](int32_t i) { return all[static_cast<size_t>(i)]; };
  std::stable_sort(order, order + n, [&](int32_t a, int32_t b) { return row_of(a) < row_of(b); });
  int32_t* keys = groups.keys.data<int32_t>();
  int64_t& count = groups.count.data<int64_t>()[0] = 0;
  for (int64_t place = 0; place < n; ++place) {
    CHECK(row_of(order[place]) >= 0 && row_of(order[place]) < rows);
    keys[place] = static_cast<int32_t>(row_of(order[place]));
    if (place > 0 && keys[place] == keys[place - 1]) continue;
    groups.heads.data<int32_t>()[count++] = static_cast<int32_t>(place);
  }
  if (!seen.defined()) return;
  seen.data<int64_t>()[0] += n;
  seen.data<int64_t>()[1] += count;
}

void SumGroups(Stream& stream, RowParts grads, RowGroups& groups, Tensor& squares) {
  if (Requests(groups) == 0) return;
  const int64_t width = grads[0].dim(1);
  groups.sums = Tensor::Empty(stream, grads[0].dtype(), {Requests(groups) / kLongGroup + 1, width},
                              MemoryTag::kExchange);
  double total = 0;
  DispatchReal(groups.sums.dtype(), [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> sum(static_cast<size_t>(width));
    for (int64_t u = 0; u < groups.count.data<int64_t>()[0]; ++u) {
      SumGroup(grads, groups, u, sum);
      for (const T x : sum) total += static_cast<double>(x) * x;
      const int64_t head = groups.heads.data<int32_t>()[u];
      if (GroupEnd(groups, u) - head < kLongGroup) continue;
      std::copy(sum.begin(), sum.end(), groups.sums.data<T>() + head / kLongGroup * width);
    }
  });
  squares.data<double>()[0] += total;
}

void AdamGroups(Stream& stream, const AdamOptions& options, bool dense, const Tensor& step,
                RowParts grads, const RowGroups& groups, Tensor& marks, Tensor& m, Tensor& v,
                Tensor& p) {
  if (step.data<double>()[kStepApply] == 0.0) return;
  const int64_t width = p.dim(1);
  std::vector<bool> moved(static_cast<size_t>(p.dim(0)));
  const auto move = [&](int64_t row, const Tensor& gradient) {
    const Tensor slot = Tensor::Wrap(&row, DType::kI64, {1});
    AdamRows(stream, options, step, gradient, slot, m, v, p);
    moved[static_cast<size_t>(row)] = true;
  };
  DispatchReal(p.dtype(), [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> sum(static_cast<size_t>(width));
    const Tensor gradient = Tensor::Wrap(sum.data(), p.dtype(), {1, width});
    for (int64_t u = 0; u < groups.count.data<int64_t>()[0]; ++u) {
      SumGroup(grads, groups, u, sum);
      const int64_t row = groups.keys.data<int32_t>()[groups.heads.data<int32_t>()[u]];
      move(row, gradient);
      Mark(marks, row);
    }
    if (!dense) return;
    std::fill(sum.begin(), sum.end(), T{0});
    for (int64_t row = 0; row < p.dim(0); ++row) {
      if (Marked(marks, row) && !moved[static_cast<size_t>(row)]) move(row, gradient);
    }
  });
}

void PutRows(Stream&, const Tensor& rows, const Tensor& ids, Tensor& table) {
  const int64_t bytes = table.bytes() / table.dim(0);
  const char* from = static_cast<const char*>(rows.raw());
  char* to = static_cast<char*>(table.raw());
  for (int64_t i = 0; i < ids.elements(); ++i) {
    const int64_t row = ids.data<int64_t>()[i];
    CHECK(row >= 0 && row < table.dim(0));
    std::memcpy(to + row * bytes, from + i * bytes, static_cast<size_t>(bytes));
  }
}

void MarkRows(Stream&, const Tensor& ids, Tensor& marks) {
  for (int64_t i = 0; i < ids.elements(); ++i) Mark(marks, ids.data<int64_t>()[i]);
}

void CountMarks(Stream&, const Tensor& marks, Tensor& count) {
  int64_t n = 0;
  for (int64_t i = 0; i < marks.elements(); ++i) {
    n += std::popcount(static_cast<uint32_t>(marks.data<int32_t>()[i]));
  }
  count.data<int64_t>()[0] = n;
}

}  // namespace mneme::cpu
