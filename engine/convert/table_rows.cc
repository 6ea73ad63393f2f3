#include "engine/convert/table_rows.h"

#include <algorithm>

#include "engine/convert/element.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kScanElements = int64_t{1} << 20;

}  // namespace

TableRows::TableRows(CheckpointSource& source, const std::string& name, const RunConfig& config)
    : source_(source),
      init_{MakeKey(static_cast<uint64_t>(config.train.seed), name),
            config.model.engram.table.init_std},
      dtype_(source.manifest().dtype == Name(DType::kF64) ? DType::kF64 : DType::kF32) {
  for (const StoredTable& part : source.manifest().tables) {
    if (part.name != name) continue;
    parts_.push_back(part);
    rows_ = part.rows;
    width_ = part.width;
    stored_ += part.count;
  }
  CHECK_GT(width_, 0);
}

absl::StatusOr<int64_t> TableRows::LowerBound(const StoredTable& part, int64_t id) {
  ASSIGN_OR_RETURN(const H5File* file, source_.File(part.file));
  int64_t low = 0;
  int64_t high = part.count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    int64_t there = 0;
    RETURN_IF_ERROR(
        file->ReadRows(part.group + "/ids", H5Type::kI64, middle, 1, &there, sizeof there));
    (there < id ? low : high) = there < id ? middle + 1 : middle;
  }
  return low;
}

absl::StatusOr<TableRows::Run> TableRows::Find(const StoredTable& part, int64_t begin,
                                               int64_t end) {
  Run run{0, 0};
  ASSIGN_OR_RETURN(run.begin, LowerBound(part, begin));
  ASSIGN_OR_RETURN(run.end, LowerBound(part, end));
  return run;
}

absl::StatusOr<std::vector<int64_t>> TableRows::ReadIds(const StoredTable& part, Run run,
                                                        int64_t begin, int64_t end) {
  std::vector<int64_t> ids(static_cast<size_t>(run.end - run.begin));
  if (ids.empty()) return ids;
  ASSIGN_OR_RETURN(const H5File* file, source_.File(part.file));
  RETURN_IF_ERROR(file->ReadRows(part.group + "/ids", H5Type::kI64, run.begin, run.end - run.begin,
                                 ids.data(), static_cast<int64_t>(ids.size() * sizeof(int64_t))));
  for (const int64_t id : ids) {
    if (id < begin || id >= end)
      return absl::DataLossError(source_.path() + ": the ids of " + part.name + " do not rise");
  }
  return ids;
}

absl::Status TableRows::ReadValues(const StoredTable& part, Run run, std::vector<double>& to) {
  ASSIGN_OR_RETURN(const H5File* file, source_.File(part.file));
  to.resize(static_cast<size_t>((run.end - run.begin) * width_));
  std::vector<char> bytes(to.size() * static_cast<size_t>(SizeOf(dtype_)));
  RETURN_IF_ERROR(file->ReadRows(part.group + "/values", StoredType(dtype_), run.begin,
                                 run.end - run.begin, bytes.data(),
                                 static_cast<int64_t>(bytes.size())));
  Decode(dtype_ == DType::kF64 ? Element::kF64 : Element::kF32, bytes.data(), absl::MakeSpan(to));
  return absl::OkStatus();
}

absl::Status TableRows::Read(int64_t begin, absl::Span<double> to) {
  const int64_t elements = static_cast<int64_t>(to.size());
  CHECK_EQ(elements % width_, 0);
  const int64_t end = begin + elements / width_;
  const uint64_t draw = static_cast<uint64_t>(begin * width_);
  if (dtype_ == DType::kF64) {
    FillNormal(init_.key, draw, elements, init_.std, to.data());
  } else {
    std::vector<float> first(to.size());
    FillNormal(init_.key, draw, elements, init_.std, first.data());
    std::copy(first.begin(), first.end(), to.begin());
  }
  std::vector<double> values;
  for (const StoredTable& part : parts_) {
    ASSIGN_OR_RETURN(const Run run, Find(part, begin, end));
    if (run.begin == run.end) continue;
    ASSIGN_OR_RETURN(const std::vector<int64_t> ids, ReadIds(part, run, begin, end));
    RETURN_IF_ERROR(ReadValues(part, run, values));
    for (size_t i = 0; i < ids.size(); ++i) {
      std::copy_n(values.data() + i * static_cast<size_t>(width_), width_,
                  to.data() + (ids[i] - begin) * width_);
    }
  }
  return absl::OkStatus();
}

absl::Status TableRows::MarkStored(int64_t begin, absl::Span<char> stored) {
  const int64_t end = begin + static_cast<int64_t>(stored.size());
  for (const StoredTable& part : parts_) {
    ASSIGN_OR_RETURN(const Run run, Find(part, begin, end));
    ASSIGN_OR_RETURN(const std::vector<int64_t> ids, ReadIds(part, run, begin, end));
    for (const int64_t id : ids) stored[static_cast<size_t>(id - begin)] = 1;
  }
  return absl::OkStatus();
}

absl::Status TableRows::Scan(const std::function<void(absl::Span<const double>)>& see) {
  const int64_t at_once = std::max<int64_t>(1, kScanElements / width_);
  std::vector<double> values;
  for (const StoredTable& part : parts_) {
    for (int64_t begin = 0; begin < part.count; begin += at_once) {
      RETURN_IF_ERROR(ReadValues(part, {begin, std::min(part.count, begin + at_once)}, values));
      see(values);
    }
  }
  return absl::OkStatus();
}

}  // namespace mneme
