// The datasets of a checkpoint by piece and row range, whatever files hold them: what loading,
// conversion and inspection read. Host memory only; knows no model.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "data/hdf5_file.h"
#include "engine/checkpoint/manifest.h"
#include "kernels/core/dtype.h"

namespace mneme {

// As checkpoints hold it: f32 or f64.
inline H5Type StoredType(DType dtype) { return dtype == DType::kF64 ? H5Type::kF64 : H5Type::kF32; }

// FailedPrecondition: sound, but of another model than the reader's.
absl::Status ForeignCheckpoint(const std::string& path, const std::string& why);

// Sizes and checksums of every shares-th file, from number `share`; `on_piece` is called as reading
// gets on. DataLoss with the file that fails.
absl::Status VerifyFiles(const std::string& path, const CheckpointManifest& manifest, int share = 0,
                         int shares = 1, const std::function<void()>& on_piece = {});

// Files are opened as they are asked for. Used by one thread. Verify a checkpoint before
// (VerifyCheckpoint): HDF5 does not bear damage.
class CheckpointSource {
 public:
  CheckpointSource(std::string path, CheckpointManifest manifest);
  CheckpointSource(const CheckpointSource&) = delete;
  CheckpointSource& operator=(const CheckpointSource&) = delete;

  // Called after every piece that Read has read; empty: nothing is.
  void OnRead(std::function<void()> on_read) { on_read_ = std::move(on_read); }

  const std::string& path() const { return path_; }
  const CheckpointManifest& manifest() const { return manifest_; }
  // A file of the manifest. Owned here; valid until another one is asked for (only some are held
  // open).
  absl::StatusOr<const H5File*> File(const std::string& name);

  // Rows [begin, end) of a piece of rows x cols, from every slice that holds some of them. `to`
  // holds (end - begin) * cols elements of `dtype`, which must be the manifest's. Errors:
  // FailedPrecondition where the checkpoint has no such piece, of that shape, whole.
  absl::Status Read(const std::string& kind, const std::string& name, int64_t rows, int64_t cols,
                    int64_t begin, int64_t end, DType dtype, void* to);

 private:
  std::string path_;
  std::function<void()> on_read_;
  CheckpointManifest manifest_;
  std::map<std::pair<std::string, std::string>, std::vector<const StoredSlice*>> slices_;
  std::map<std::string, std::unique_ptr<H5File>> files_;
};

}  // namespace mneme
