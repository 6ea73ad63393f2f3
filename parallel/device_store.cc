#include "parallel/device_store.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "parallel/resident_size.h"

namespace mneme {
namespace {

constexpr int64_t kMarks = 32;  // in a word
// First values of a spread table are drawn with those of other ranks, so many rows at once.
constexpr int64_t kDrawnRows = 1 << 16;

// A tensor in the stream's device: itself, or a copy of host memory.
Tensor There(Stream& stream, const Tensor& x) {
  if (!x.defined() || x.device().kind == stream.device().kind) return x;
  CHECK(x.device().is_cpu());
  Tensor there = Tensor::Empty(stream, x.dtype(), x.shape(), MemoryTag::kExchange);
  Upload(stream, x.raw(), x.bytes(), there);
  return there;
}

absl::Status CheckDeviceFits(Stream& stream, const RowTableSpec& spec, const RowShare& share) {
  if (stream.device().is_cpu()) return absl::OkStatus();
  const GpuInfo info = stream.driver().info(stream.device().index);
  const double needed = ResidentBytes(spec, share);
  if (needed <= static_cast<double>(info.free_bytes)) return absl::OkStatus();
  const auto gib = [](double bytes) { return std::to_string(bytes / (1 << 30)) + " GiB"; };
  return absl::ResourceExhaustedError(
      spec.name + ": " + std::to_string(ResidentRows(spec, share).kept) + " rows of " +
      std::to_string(spec.width) + " values and their moments need " + gib(needed) + ", but " +
      stream.device().Name() + " has " + gib(static_cast<double>(info.free_bytes)) +
      " left; spread the table over more ranks (parallel.memory), make it smaller "
      "(model.engram.vocab_size) or run on the CPU (device: cpu)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceStore>> DeviceStore::Make(Stream& stream,
                                                               const Kernels& kernels,
                                                               RowTableSpec spec, bool first,
                                                               int64_t phase, int64_t stride) {
  RowShare share;
  share.phase = phase;
  share.stride = stride;
  RETURN_IF_ERROR(CheckDeviceFits(stream, spec, share));
  return std::unique_ptr<DeviceStore>(
      new DeviceStore(stream, kernels, std::move(spec), share, first));
}

DeviceStore::DeviceStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, RowShare share,
                         bool first)
    : RowStore(stream.allocator(), std::move(spec), share),
      stream_(stream),
      kernels_(kernels),
      first_(first),
      rows_(ResidentRows(spec_, share_).kept),
      listed_(rows_) {
  CHECK(rows_ > 0 && spec_.width > 0);
  const Shape shape = {rows_, spec_.width};
  values_ = Tensor::Empty(stream, spec_.dtype, shape, MemoryTag::kTables);
  m_ = Tensor::Zeros(stream, spec_.dtype, shape, MemoryTag::kOptimizer);
  v_ = Tensor::Zeros(stream, spec_.dtype, shape, MemoryTag::kOptimizer);
  const int64_t words = (rows_ + kMarks - 1) / kMarks;
  marks_ = Tensor::Zeros(stream, DType::kI32, {words}, MemoryTag::kTables);
  DrawFirstValues(stream);
  // A decay moves rows that never had a gradient too.
  if (!spec_.dense_adam || spec_.adam.decay == 0) return;
  std::vector<uint32_t> all(static_cast<size_t>(words), ~uint32_t{0});
  if (rows_ % kMarks != 0) all.back() = (uint32_t{1} << (rows_ % kMarks)) - 1;
  Upload(stream, all.data(), marks_.bytes(), marks_);
}

// Where the table is spread: of neighbouring rows every stride-th is picked out.
void DeviceStore::DrawFirstValues(Stream& stream) {
  const RowInit& init = spec_.init;
  if (share_.stride == 1) return kernels_.normal_rows(stream, init.key, 0, init.std, values_);
  const int64_t most = std::clamp<int64_t>(kDrawnRows / share_.stride, 1, rows_);
  std::vector<int64_t> wanted;
  for (int64_t i = 0; i < most; ++i) wanted.push_back(share_.row(i));
  Tensor places = Tensor::Empty(stream, DType::kI64, {most}, MemoryTag::kWorkspace);
  Upload(stream, wanted.data(), places.bytes(), places);
  Tensor drawn = Tensor::Empty(stream, spec_.dtype, {most * share_.stride, spec_.width},
                               MemoryTag::kWorkspace);
  for (int64_t begin = 0; begin < rows_; begin += most) {
    const int64_t end = std::min(rows_, begin + most);
    const auto first = static_cast<uint64_t>(begin * share_.stride * spec_.width);
    kernels_.normal_rows(stream, init.key, first, init.std, drawn);
    Tensor picked = values_.Rows(begin, end);
    kernels_.gather_rows(stream, drawn, places.Rows(0, end - begin), picked);
  }
}

Tensor DeviceStore::NumbersOf(Stream& stream, const Tensor& ids) {
  if (share_.stride == 1) return There(stream, ids);
  std::vector<int64_t> rows(static_cast<size_t>(ids.elements()));
  if (ids.device().is_cpu()) {
    std::copy_n(ids.data<int64_t>(), rows.size(), rows.data());
  } else {
    Download(stream, ids, rows.data(), ids.bytes());
  }
  for (int64_t& row : rows) {
    CHECK(share_.holds(row));
    row = share_.number(row);
  }
  Tensor numbers = Tensor::Empty(stream, DType::kI64, ids.shape(), MemoryTag::kExchange);
  Upload(stream, rows.data(), numbers.bytes(), numbers);
  return numbers;
}

void DeviceStore::Read(Stream& stream, const Tensor& ids, Tensor& values) {
  kernels_.gather_rows(stream, values_, NumbersOf(stream, ids), values);
}

void DeviceStore::Move(Stream& stream, const Tensor& step, RowParts parts,
                       const RowGroups& groups) {
  kernels_.adam_groups(stream, spec_.adam, spec_.dense_adam, step, parts, groups, marks_, m_, v_,
                       values_);
}

void DeviceStore::Update(Stream& stream, const Tensor& step, const Tensor& ids,
                         const Tensor& grads) {
  CHECK_EQ(grads.elements(), ids.elements() * spec_.width);
  Tensor none;
  const Tensor numbers = NumbersOf(stream, ids);
  Tensor squares = Tensor::Zeros(stream, DType::kF64, {1}, MemoryTag::kWorkspace);
  RowGroups groups;
  kernels_.group_rows(stream, {&numbers, 1}, rows_, groups, none);
  kernels_.sum_groups(stream, {&grads, 1}, groups, squares);
  Move(stream, step, {&grads, 1}, groups);
}

void DeviceStore::Write(Stream&, const Tensor& ids, const Tensor&) {
  CHECK_EQ(ids.elements(), int64_t{0});
}

int64_t DeviceStore::materialised(bool) const {
  if (!first_) return 0;
  Tensor count = Tensor::Empty(stream_, DType::kI64, {1}, MemoryTag::kWorkspace);
  kernels_.count_marks(stream_, marks_, count);
  int64_t n = 0;
  Download(stream_, count, &n, count.bytes());
  return n;
}

Tensor DeviceStore::PutListed(Stream& stream, int64_t begin, int64_t end, Tensor& ids) {
  if (begin == 0) {
    std::vector<uint32_t> words(static_cast<size_t>(marks_.elements()));
    Download(stream, marks_, words.data(), marks_.bytes());
    listed_.Assign(words);
  }
  CHECK_EQ(ids.elements(), end - begin);
  std::vector<int64_t> rows(static_cast<size_t>(end - begin));
  listed_.List(begin, end, rows.data());
  Tensor numbers = share_.stride == 1
                       ? ids
                       : Tensor::Empty(stream, DType::kI64, ids.shape(), MemoryTag::kExchange);
  Upload(stream, rows.data(), numbers.bytes(), numbers);
  if (share_.stride == 1) return numbers;
  for (int64_t& row : rows) row = share_.row(row);
  Upload(stream, rows.data(), ids.bytes(), ids);
  return numbers;
}

void DeviceStore::List(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values) {
  kernels_.gather_rows(stream, values_, PutListed(stream, begin, end, ids), values);
}

void DeviceStore::Export(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values,
                         Tensor& m, Tensor& v) {
  const Tensor numbers = PutListed(stream, begin, end, ids);
  kernels_.gather_rows(stream, values_, numbers, values);
  kernels_.gather_rows(stream, m_, numbers, m);
  kernels_.gather_rows(stream, v_, numbers, v);
}

void DeviceStore::Import(Stream& stream, const Tensor& ids, const Tensor& values, const Tensor& m,
                         const Tensor& v, bool with_state) {
  CHECK_EQ(values.elements(), ids.elements() * spec_.width);
  if (ids.elements() == 0) return;
  const Tensor rows = NumbersOf(stream, ids);
  kernels_.put_rows(stream, There(stream, values), rows, values_);
  Tensor zeros;
  if (!with_state) zeros = Tensor::Zeros(stream, spec_.dtype, values.shape(), MemoryTag::kExchange);
  kernels_.put_rows(stream, with_state ? There(stream, m) : zeros, rows, m_);
  kernels_.put_rows(stream, with_state ? There(stream, v) : zeros, rows, v_);
  kernels_.mark_rows(stream, rows, marks_);
}

int64_t DeviceStore::bytes() const {
  return values_.bytes() + m_.bytes() + v_.bytes() + marks_.bytes();
}

}  // namespace mneme
