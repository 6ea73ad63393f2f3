// Files of weights, streamed: rows in, rows out.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "data/files.h"
#include "data/hdf5_file.h"
#include "engine/convert/convert_target.h"
#include "engine/convert/safetensors.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kElementsAtOnce = int64_t{1} << 20;

// Rows of a part in order, a chunk at a time: see(first row, numbers).
template <class See>
absl::Status ForChunks(ModelSource& source, const PlannedPart& part, See see) {
  const int64_t cols = part.tensor->cols;
  const int64_t at_once = std::max<int64_t>(1, kElementsAtOnce / cols);
  std::vector<double> values;
  for (int64_t begin = part.begin; begin < part.end; begin += at_once) {
    const int64_t end = std::min(part.end, begin + at_once);
    values.resize(static_cast<size_t>((end - begin) * cols));
    RETURN_IF_ERROR(source.Read(*part.tensor, begin, absl::MakeSpan(values)));
    RETURN_IF_ERROR(see(begin, values));
  }
  return absl::OkStatus();
}

absl::Status WriteShard(ModelSource& source, const PlannedFile& file, const std::string& path) {
  std::vector<PlannedTensor> tensors;
  for (const PlannedPart& part : file.parts)
    tensors.push_back({part.name, part.element, part.shape});
  // transformers wants to be told.
  ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, tensors, {{"format", "pt"}}));
  for (const PlannedPart& part : file.parts) {
    RETURN_IF_ERROR(ForChunks(source, part, [&](int64_t, absl::Span<const double> values) {
      return writer->Append(values);
    }));
  }
  return writer->Close();
}

absl::Status WriteDatasets(ModelSource& source, const PlannedPart& part, H5File& file) {
  const bool table = part.tensor->kind == "rows";
  const H5Type type = part.element == Element::kF64 ? H5Type::kF64 : H5Type::kF32;
  const std::string name = table ? part.name + "/values" : part.name;
  const int64_t count = part.end - part.begin;
  if (count == 0) {
    RETURN_IF_ERROR(file.Write(name, type, part.shape, nullptr));
    return file.Write(part.name + "/ids", H5Type::kI64, {0}, nullptr);
  }
  std::vector<char> bytes;
  std::vector<int64_t> ids;
  return ForChunks(source, part, [&](int64_t row, absl::Span<const double> values) -> absl::Status {
    bytes.resize(values.size() * static_cast<size_t>(BytesOf(part.element)));
    Encode(part.element, values, bytes.data());
    const int64_t rows = static_cast<int64_t>(values.size()) / part.tensor->cols;
    RETURN_IF_ERROR(file.WriteRows(name, type, part.shape, row - part.begin, rows, bytes.data()));
    if (!table) return absl::OkStatus();
    ids.resize(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) ids[static_cast<size_t>(i)] = row + i;
    return file.WriteRows(part.name + "/ids", H5Type::kI64, {count}, row - part.begin, rows,
                          ids.data());
  });
}

absl::Status WriteRankFile(const Conversion& conversion, size_t index, const std::string& path) {
  const std::string part_path = path + ".part";
  ASSIGN_OR_RETURN(const std::unique_ptr<H5File> file, H5File::Create(part_path));
  if (index == 0) {
    const std::vector<int32_t>& canonical = conversion.source.vocabulary().canonical;
    RETURN_IF_ERROR(file->Write("vocabulary/canonical", H5Type::kI32,
                                {static_cast<int64_t>(canonical.size())}, canonical.data()));
  }
  for (const PlannedPart& part : conversion.files[index].parts) {
    RETURN_IF_ERROR(WriteDatasets(conversion.source, part, *file));
  }
  RETURN_IF_ERROR(file->Close());
  if (std::rename(part_path.c_str(), path.c_str()) != 0) {
    return FileError(path, "put in place", errno);
  }
  return absl::OkStatus();
}

// write(index, path) for every file that is not there.
template <class WriteOne>
absl::Status ForMissing(const Conversion& conversion, const WorkFolder& work, WriteOne write) {
  const size_t count = conversion.files.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = conversion.files[i].name;
    const bool there = work.Has(name);
    if (!there) {
      const std::string path = work.path() + "/" + name;
      if (absl::Status status = write(i, path); !status.ok()) {
        std::error_code ignored;
        std::filesystem::remove(path + ".part", ignored);
        return status;
      }
    }
    conversion.options.say(name + " (" + std::to_string(i + 1) + " of " + std::to_string(count) +
                           ")" + (there ? " was there" : ""));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteForeignFiles(Conversion& conversion, WorkFolder& work) {
  return ForMissing(conversion, work, [&](size_t i, const std::string& path) {
    return WriteShard(conversion.source, conversion.files[i], path);
  });
}

absl::Status WriteCheckpointFiles(Conversion& conversion, WorkFolder& work) {
  return ForMissing(conversion, work, [&](size_t i, const std::string& path) {
    return WriteRankFile(conversion, i, path);
  });
}

}  // namespace mneme
