#include "engine/checkpoint/source.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr size_t kOpenFiles = 64;

}  // namespace

absl::Status ForeignCheckpoint(const std::string& path, const std::string& why) {
  return absl::FailedPreconditionError(path + ": " + why +
                                       ": it belongs to another model; see its config.yaml");
}

absl::Status VerifyFiles(const std::string& path, const CheckpointManifest& manifest, int share,
                         int shares, const std::function<void()>& on_piece) {
  int index = 0;
  for (const auto& [name, file] : manifest.files) {
    if (index++ % shares != share) continue;
    const std::string full = path + "/" + name;
    absl::StatusOr<int64_t> bytes = FileSize(full);
    if (!bytes.ok()) {
      return absl::DataLossError(full +
                                 ": cannot be read: " + std::string(bytes.status().message()));
    }
    if (*bytes != file.bytes) {
      return absl::DataLossError(full + ": has " + std::to_string(*bytes) + " bytes, not " +
                                 std::to_string(file.bytes) + ": torn");
    }
    ASSIGN_OR_RETURN(const std::string digest, FileDigest(full, on_piece));
    if (digest != file.digest) {
      return absl::DataLossError(full + ": does not match its checksum: damaged");
    }
  }
  return absl::OkStatus();
}

CheckpointSource::CheckpointSource(std::string path, CheckpointManifest manifest)
    : path_(std::move(path)), manifest_(std::move(manifest)) {
  for (const StoredSlice& slice : manifest_.slices) {
    slices_[{slice.kind, slice.name}].push_back(&slice);
  }
}

absl::StatusOr<const H5File*> CheckpointSource::File(const std::string& name) {
  if (auto it = files_.find(name); it != files_.end()) return it->second.get();
  if (files_.size() >= kOpenFiles) files_.clear();
  ASSIGN_OR_RETURN(std::unique_ptr<H5File> file, H5File::Open(path_ + "/" + name));
  const H5File* opened = file.get();
  files_[name] = std::move(file);
  return opened;
}

absl::Status CheckpointSource::Read(const std::string& kind, const std::string& name, int64_t rows,
                                    int64_t cols, int64_t begin, int64_t end, DType dtype,
                                    void* to) {
  const auto it = slices_.find({kind, name});
  if (it == slices_.end()) return ForeignCheckpoint(path_, "holds no " + kind + " of " + name);
  const int64_t row_bytes = cols * SizeOf(dtype);
  int64_t found = 0;
  for (const StoredSlice* slice : it->second) {
    if (slice->rows != rows || slice->cols != cols) {
      return ForeignCheckpoint(
          path_, name + " is " + std::to_string(slice->rows) + " x " + std::to_string(slice->cols) +
                     " there and " + std::to_string(rows) + " x " + std::to_string(cols) + " here");
    }
    const int64_t from = std::max(begin, slice->begin);
    const int64_t until = std::min(end, slice->end);
    if (from >= until) continue;
    ASSIGN_OR_RETURN(const H5File* file, File(slice->file));
    char* place = static_cast<char*>(to) + (from - begin) * row_bytes;
    RETURN_IF_ERROR(file->ReadRows(slice->dataset, StoredType(dtype), from - slice->begin,
                                   until - from, place, (until - from) * row_bytes));
    found += until - from;
    if (on_read_) on_read_();
  }
  if (found == end - begin) return absl::OkStatus();
  return ForeignCheckpoint(path_, "holds " + std::to_string(found) + " of the " +
                                      std::to_string(end - begin) + " wanted rows of " + name);
}

}  // namespace mneme
