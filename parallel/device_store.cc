#include "parallel/device_store.h"

#include <string>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "parallel/resident_size.h"

namespace mneme {
namespace {

constexpr int64_t kMarks = 32;  // in a word

// A tensor in the stream's device: itself, or a copy of host memory.
Tensor There(Stream& stream, const Tensor& x) {
  if (!x.defined() || x.device().kind == stream.device().kind) return x;
  CHECK(x.device().is_cpu());
  Tensor there = Tensor::Empty(stream, x.dtype(), x.shape(), MemoryTag::kExchange);
  Upload(stream, x.raw(), x.bytes(), there);
  return there;
}

absl::Status CheckDeviceFits(Stream& stream, const RowTableSpec& spec) {
  if (stream.device().is_cpu()) return absl::OkStatus();
  const GpuInfo info = stream.driver().info(stream.device().index);
  if (ResidentBytes(spec, RowShare{}) <= static_cast<double>(info.free_bytes)) {
    return absl::OkStatus();
  }
  const auto gib = [](double bytes) { return std::to_string(bytes / (1 << 30)) + " GiB"; };
  return absl::ResourceExhaustedError(
      spec.name + ": " + std::to_string(spec.rows) + " rows of " + std::to_string(spec.width) +
      " values and their moments need " + gib(ResidentBytes(spec, RowShare{})) + ", but " +
      stream.device().Name() + " has " + gib(static_cast<double>(info.free_bytes)) +
      " left; make the table smaller (model.engram.vocab_size) or run on the CPU (device: cpu)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceStore>> DeviceStore::Make(Stream& stream,
                                                               const Kernels& kernels,
                                                               RowTableSpec spec, bool first) {
  RETURN_IF_ERROR(CheckDeviceFits(stream, spec));
  return std::unique_ptr<DeviceStore>(new DeviceStore(stream, kernels, std::move(spec), first));
}

DeviceStore::DeviceStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, bool first)
    : RowStore(stream.allocator(), std::move(spec), RowShare{}),
      stream_(stream),
      kernels_(kernels),
      first_(first),
      listed_(spec_.rows) {
  CHECK(spec_.rows > 0 && spec_.width > 0);
  const Shape shape = {spec_.rows, spec_.width};
  values_ = Tensor::Empty(stream, spec_.dtype, shape, MemoryTag::kTables);
  m_ = Tensor::Zeros(stream, spec_.dtype, shape, MemoryTag::kOptimizer);
  v_ = Tensor::Zeros(stream, spec_.dtype, shape, MemoryTag::kOptimizer);
  const int64_t words = (spec_.rows + kMarks - 1) / kMarks;
  marks_ = Tensor::Zeros(stream, DType::kI32, {words}, MemoryTag::kTables);
  kernels.normal_rows(stream, spec_.init.key, 0, spec_.init.std, values_);
  // A decay moves rows that never had a gradient too.
  if (!spec_.dense_adam || spec_.adam.decay == 0) return;
  std::vector<uint32_t> all(static_cast<size_t>(words), ~uint32_t{0});
  if (spec_.rows % kMarks != 0) all.back() = (uint32_t{1} << (spec_.rows % kMarks)) - 1;
  Upload(stream, all.data(), marks_.bytes(), marks_);
}

void DeviceStore::Read(Stream& stream, const Tensor& ids, Tensor& values) {
  kernels_.gather_rows(stream, values_, ids, values);
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
  Tensor squares = Tensor::Zeros(stream, DType::kF64, {1}, MemoryTag::kWorkspace);
  RowGroups groups;
  kernels_.group_rows(stream, {&ids, 1}, spec_.rows, groups, none);
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

void DeviceStore::PutListed(Stream& stream, int64_t begin, int64_t end, Tensor& ids) {
  if (begin == 0) {
    std::vector<uint32_t> words(static_cast<size_t>(marks_.elements()));
    Download(stream, marks_, words.data(), marks_.bytes());
    listed_.Assign(words);
  }
  CHECK_EQ(ids.elements(), end - begin);
  std::vector<int64_t> rows(static_cast<size_t>(end - begin));
  listed_.List(begin, end, rows.data());
  Upload(stream, rows.data(), ids.bytes(), ids);
}

void DeviceStore::List(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values) {
  PutListed(stream, begin, end, ids);
  kernels_.gather_rows(stream, values_, ids, values);
}

void DeviceStore::Export(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values,
                         Tensor& m, Tensor& v) {
  List(stream, begin, end, ids, values);
  kernels_.gather_rows(stream, m_, ids, m);
  kernels_.gather_rows(stream, v_, ids, v);
}

void DeviceStore::Import(Stream& stream, const Tensor& ids, const Tensor& values, const Tensor& m,
                         const Tensor& v, bool with_state) {
  CHECK_EQ(values.elements(), ids.elements() * spec_.width);
  if (ids.elements() == 0) return;
  const Tensor rows = There(stream, ids);
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
