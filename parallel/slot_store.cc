#include "parallel/slot_store.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// Rows that one call of Adam takes: gradients of 0 are staged for them.
constexpr int64_t kChunk = 16384;
// Rows looked ahead of where memory is read.
constexpr int64_t kAhead = 16;

absl::Span<const int64_t> SpanOf(const Tensor& ids) {
  return {ids.data<int64_t>(), static_cast<size_t>(ids.elements())};
}

void CopyRow(char* to, const char* from, int64_t bytes) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

// rows[slots[i]] <- in[i].
void ScatterRows(absl::Span<const int64_t> slots, const Tensor& in, GrowingArray& rows) {
  const char* from = static_cast<const char*>(in.raw());
  const int64_t bytes = rows.row_bytes();
  for (size_t i = 0; i < slots.size(); ++i, from += bytes) CopyRow(rows.row(slots[i]), from, bytes);
}

// out[i] <- rows[slots[i]].
void GatherSlots(absl::Span<const int64_t> slots, const GrowingArray& rows, Tensor& out) {
  char* to = static_cast<char*>(out.raw());
  const int64_t bytes = rows.row_bytes();
  for (size_t i = 0; i < slots.size(); ++i, to += bytes) {
    if (i + kAhead < slots.size()) __builtin_prefetch(rows.row(slots[i + kAhead]));
    CopyRow(to, rows.row(slots[i]), bytes);
  }
}

}  // namespace

SlotStore::SlotStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, RowShare share)
    : RowStore(stream.allocator(), std::move(spec), share),
      kernels_(kernels),
      kept_(spec_.width * SizeOf(spec_.dtype)),
      mirrored_(spec_.width * SizeOf(spec_.dtype)) {
  CHECK(spec_.rows > 0 && spec_.width > 0);
  CHECK(share.phase >= 0 && share.phase < share.stride);
  CHECK(share.replica >= 0 && share.replica < share.replicas);
}

SlotStore::~SlotStore() {
  allocator().Account(-table_bytes_, MemoryTag::kTables);
  allocator().Account(-moment_bytes_, MemoryTag::kOptimizer);
}

void SlotStore::Account(int64_t index_bytes, int64_t kept_rows, int64_t mirrored_rows) {
  const int64_t table = index_bytes + (kept_rows + mirrored_rows) * row_bytes();
  const int64_t moments = 2 * kept_rows * row_bytes();
  allocator().Account(table - table_bytes_, MemoryTag::kTables);
  allocator().Account(moments - moment_bytes_, MemoryTag::kOptimizer);
  table_bytes_ = table;
  moment_bytes_ = moments;
}

void SlotStore::FillFirst(int64_t id, void* row) const {
  const auto first = static_cast<uint64_t>(id) * static_cast<uint64_t>(spec_.width);
  DispatchReal(spec_.dtype, [&](auto zero) {
    FillNormal(spec_.init.key, first, spec_.width, spec_.init.std,
               static_cast<decltype(zero)*>(row));
  });
}

void SlotStore::CheckIds(absl::Span<const int64_t> ids) const {
  for (int64_t id : ids) CHECK(id >= 0 && id < spec_.rows && share_.holds(id));
}

void SlotStore::CheckRows(const Tensor& ids, const Tensor& rows) const {
  CHECK_EQ(rows.elements(), ids.elements() * spec_.width);
  CHECK_EQ(Name(rows.dtype()), Name(spec_.dtype));
}

SlotStore::Part SlotStore::PartOfPool(absl::Span<const int64_t> ids, bool with_state) const {
  Part part;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (share_.keeps_state(ids[i]) != with_state) continue;
    part.ids.push_back(ids[i]);
    part.places.push_back(static_cast<int64_t>(i));
  }
  return part;
}

void SlotStore::ReadFrom(bool with_state, absl::Span<const int64_t> ids, const int64_t* places,
                         char* values) const {
  std::vector<int64_t> slots(ids.size());
  Find(with_state, ids, slots.data());
  const GrowingArray& rows = pool(with_state).values;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (i + kAhead < slots.size()) {
      __builtin_prefetch(rows.row(std::max<int64_t>(0, slots[i + kAhead])));
    }
    char* to = values + (places == nullptr ? static_cast<int64_t>(i) : places[i]) * row_bytes();
    if (slots[i] < 0) {
      FillFirst(ids[i], to);
    } else {
      CopyRow(to, rows.row(slots[i]), row_bytes());
    }
  }
}

void SlotStore::Read(Stream&, const Tensor& ids, Tensor& values) {
  CheckRows(ids, values);
  CheckIds(SpanOf(ids));
  char* to = static_cast<char*>(values.raw());
  if (share_.replicas == 1) {
    ReadFrom(true, SpanOf(ids), nullptr, to);
    return;
  }
  for (bool with_state : {true, false}) {
    const Part part = PartOfPool(SpanOf(ids), with_state);
    ReadFrom(with_state, part.ids, part.places.data(), to);
  }
}

void SlotStore::Update(Stream& stream, const Tensor& step, const Tensor& ids, const Tensor& grads) {
  CheckRows(ids, grads);
  if (step.data<double>()[kStepApply] == 0.0) return;
  const absl::Span<const int64_t> touched = SpanOf(ids);
  CheckIds(touched);
  for (int64_t id : touched) CHECK(share_.keeps_state(id));
  std::vector<int64_t> slots(touched.size());
  Materialise(/*with_state=*/true, touched, /*fill=*/true, slots.data());
  if (spec_.dense_adam) {
    MoveAll(stream, step, slots, grads);
  } else if (!slots.empty()) {
    const auto n = static_cast<int64_t>(slots.size());
    RunAdam(stream, step, Tensor::Wrap(slots.data(), DType::kI64, {n}), grads);
  }
}

void SlotStore::RunAdam(Stream& stream, const Tensor& step, const Tensor& slots,
                        const Tensor& grads) {
  const Shape shape{kept_.rows, spec_.width};
  Tensor m = Tensor::Wrap(kept_.m.row(0), spec_.dtype, shape);
  Tensor v = Tensor::Wrap(kept_.v.row(0), spec_.dtype, shape);
  Tensor values = Tensor::Wrap(kept_.values.row(0), spec_.dtype, shape);
  kernels_.adam_rows(stream, spec_.adam, step, grads, slots, m, v, values);
}

// A chunk of slots at a time, with the gradients of the touched ones among zeros.
void SlotStore::MoveAll(Stream& stream, const Tensor& step, absl::Span<const int64_t> touched,
                        const Tensor& grads) {
  std::vector<int64_t> by_slot(touched.size());
  std::iota(by_slot.begin(), by_slot.end(), int64_t{0});
  const auto slot_of = [&](int64_t i) { return touched[static_cast<size_t>(i)]; };
  if (!std::is_sorted(touched.begin(), touched.end())) {
    std::sort(by_slot.begin(), by_slot.end(),
              [&](int64_t a, int64_t b) { return slot_of(a) < slot_of(b); });
  }
  const int64_t total = materialised(/*with_state=*/true);
  const int64_t most = std::min(kChunk, total);
  Tensor staged = Tensor::Empty(stream, spec_.dtype, {most, spec_.width}, MemoryTag::kWorkspace);
  std::vector<int64_t> slots(static_cast<size_t>(most));
  std::vector<int64_t> ids(static_cast<size_t>(most));
  const char* from = static_cast<const char*>(grads.raw());
  size_t next = 0;
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const int64_t count = std::min(kChunk, total - begin);
    ListSlots(Order::kOwn, begin, begin + count, slots.data(), ids.data());
    Tensor part = staged.Rows(0, count);
    char* to = static_cast<char*>(part.raw());
    std::memset(to, 0, static_cast<size_t>(part.bytes()));
    for (int64_t i = 0; i < count && next < by_slot.size(); ++i) {
      if (slots[static_cast<size_t>(i)] != slot_of(by_slot[next])) continue;
      CopyRow(to + i * row_bytes(), from + by_slot[next++] * row_bytes(), row_bytes());
    }
    RunAdam(stream, step, Tensor::Wrap(slots.data(), DType::kI64, {count}), part);
  }
  CHECK_EQ(next, by_slot.size());
}

// Rows of one pool whose moments, if it has any, begin at zero.
void SlotStore::ImportValues(bool with_state, const Part& part, const Tensor& values) {
  std::vector<int64_t> slots(part.ids.size());
  Materialise(with_state, part.ids, /*fill=*/false, slots.data());
  Pool& rows = pool(with_state);
  const char* from = static_cast<const char*>(values.raw());
  for (size_t i = 0; i < slots.size(); ++i) {
    CopyRow(rows.values.row(slots[i]), from + part.places[i] * row_bytes(), row_bytes());
    if (!with_state) continue;
    std::memset(rows.m.row(slots[i]), 0, static_cast<size_t>(row_bytes()));
    std::memset(rows.v.row(slots[i]), 0, static_cast<size_t>(row_bytes()));
  }
}

void SlotStore::Write(Stream&, const Tensor& ids, const Tensor& values) {
  CheckRows(ids, values);
  CheckIds(SpanOf(ids));
  const Part part = PartOfPool(SpanOf(ids), /*with_state=*/false);
  CHECK_EQ(static_cast<int64_t>(part.ids.size()), ids.elements());
  ImportValues(/*with_state=*/false, part, values);
}

void SlotStore::List(Stream&, int64_t begin, int64_t end, Tensor& ids, Tensor& values) {
  CheckRows(ids, values);
  CHECK_EQ(ids.elements(), end - begin);
  std::vector<int64_t> slots(static_cast<size_t>(end - begin));
  ListSlots(Order::kOwn, begin, end, slots.data(), ids.data<int64_t>());
  GatherSlots(slots, kept_.values, values);
}

void SlotStore::Export(Stream&, int64_t begin, int64_t end, Tensor& ids, Tensor& values, Tensor& m,
                       Tensor& v) {
  CheckRows(ids, values);
  CheckRows(ids, m);
  CheckRows(ids, v);
  CHECK_EQ(ids.elements(), end - begin);
  std::vector<int64_t> slots(static_cast<size_t>(end - begin));
  ListSlots(Order::kById, begin, end, slots.data(), ids.data<int64_t>());
  GatherSlots(slots, kept_.values, values);
  GatherSlots(slots, kept_.m, m);
  GatherSlots(slots, kept_.v, v);
}

void SlotStore::Import(Stream&, const Tensor& ids, const Tensor& values, const Tensor& m,
                       const Tensor& v, bool with_state) {
  const absl::Span<const int64_t> rows = SpanOf(ids);
  CheckRows(ids, values);
  CheckIds(rows);
  if (!with_state) {
    ImportValues(true, PartOfPool(rows, true), values);
    ImportValues(false, PartOfPool(rows, false), values);
    return;
  }
  CheckRows(ids, m);
  CheckRows(ids, v);
  for (int64_t id : rows) CHECK(share_.keeps_state(id));
  std::vector<int64_t> slots(rows.size());
  Materialise(/*with_state=*/true, rows, /*fill=*/false, slots.data());
  ScatterRows(slots, values, kept_.values);
  ScatterRows(slots, m, kept_.m);
  ScatterRows(slots, v, kept_.v);
}

}  // namespace mneme
