// RAII over the serial HDF5 C API: the only file that knows HDF5. One writer a file, no file locks, contiguous datasets
// or stock filters. Every call reports what failed and on which file; nothing is printed by HDF5 itself.
// HDF5 is not thread-safe as packaged: calls of all threads of a process are serialised inside.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mneme {

enum class H5Type { kF32, kF64, kI32, kI64, kU8, kU16, kU32 };

struct H5DatasetInfo {
  H5Type type = H5Type::kF32;
  std::vector<int64_t> shape;
  int64_t offset = -1;  // of contiguous data in the file; −1 otherwise
};

class H5File {
 public:
  // Create truncates. Open is read-only and refuses what is not a whole HDF5 file.
  static absl::StatusOr<std::unique_ptr<H5File>> Create(const std::string& path);
  static absl::StatusOr<std::unique_ptr<H5File>> Open(const std::string& path);
  virtual ~H5File() = default;

  // Names are paths with '/'; groups on the way are made. Writes of more than 1 GiB are done in pieces.
  virtual absl::Status Write(const std::string& name, H5Type type, const std::vector<int64_t>& shape,
                             const void* data) = 0;
  // A dataset that is then filled by rows (outermost dim), e.g. while text streams in.
  virtual absl::Status WriteRows(const std::string& name, H5Type type, const std::vector<int64_t>& full_shape,
                                 int64_t row_begin, int64_t rows, const void* data) = 0;
  virtual absl::Status WriteText(const std::string& name, const std::string& text) = 0;   // attribute-sized or large
  virtual absl::StatusOr<H5DatasetInfo> Info(const std::string& name) const = 0;
  virtual absl::Status Read(const std::string& name, H5Type type, void* data, int64_t bytes) const = 0;
  virtual absl::Status ReadRows(const std::string& name, H5Type type, int64_t row_begin, int64_t rows, void* data,
                                int64_t bytes) const = 0;
  virtual absl::StatusOr<std::string> ReadText(const std::string& name) const = 0;
  virtual std::vector<std::string> Datasets() const = 0;  // full paths
  // Flush, fsync, close; the file is whole after it returns OK. The destructor closes without that promise.
  virtual absl::Status Close() = 0;
};

// XXH3-64 of a file's bytes, 16 hex digits.
absl::StatusOr<std::string> FileDigest(const std::string& path);
std::string BytesDigest(const std::string& bytes);
// Writes path.tmp, fsyncs, renames, fsyncs the folder: a reader sees the old file or the new one, never a part.
absl::Status WriteFileAtomically(const std::string& path, const std::string& bytes);
absl::StatusOr<std::string> ReadFileBytes(const std::string& path);

}  // namespace mneme
