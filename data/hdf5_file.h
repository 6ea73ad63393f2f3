// RAII over the serial HDF5 C API: the only file that knows HDF5. One writer a file, no file locks,
// contiguous datasets. Every call reports what failed and on which file; nothing is printed by HDF5
// itself. HDF5 is not thread-safe as packaged: calls of all threads of a process are serialised
// inside, so different threads may use different files.
//
// A file with flipped bits in its metadata can confuse HDF5 1.10 badly: check FileDigest against a
// manifest before Open.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/files.h"

namespace mneme {

// Stored little-endian.
enum class H5Type { kF32, kF64, kI32, kI64, kU8, kU16, kU32 };

int64_t H5TypeBytes(H5Type type);
const char* H5TypeName(H5Type type);  // "f32", …

struct H5DatasetInfo {
  H5Type type = H5Type::kF32;
  std::vector<int64_t> shape;
  int64_t offset =
      -1;  // of contiguous data in the file, a multiple of 64 in files written here; −1 otherwise
};

class H5File {
 public:
  // Create truncates. Open is read-only and refuses what is not a whole HDF5 file.
  // Errors of all calls: NotFound (file or dataset), PermissionDenied, ResourceExhausted (disk
  // full), DataLoss (not HDF5, truncated, not what was asked for), AlreadyExists (a dataset written
  // twice), Unavailable.
  static absl::StatusOr<std::unique_ptr<H5File>> Create(const std::string& path);
  static absl::StatusOr<std::unique_ptr<H5File>> Open(const std::string& path);
  virtual ~H5File() = default;

  // Names are paths with '/'; groups on the way are made. An empty shape is a scalar; a dim may be
  // 0. Writes of more than 1 GiB are done in pieces.
  virtual absl::Status Write(const std::string& name, H5Type type,
                             const std::vector<int64_t>& shape, const void* data) = 0;
  // A dataset that is then filled by rows (outermost dim), e.g. while text streams in. The first
  // call makes it; rows never written hold undefined values.
  virtual absl::Status WriteRows(const std::string& name, H5Type type,
                                 const std::vector<int64_t>& full_shape, int64_t row_begin,
                                 int64_t rows, const void* data) = 0;
  // A scalar string dataset, of any length.
  virtual absl::Status WriteText(const std::string& name, const std::string& text) = 0;

  virtual absl::StatusOr<H5DatasetInfo> Info(const std::string& name) const = 0;
  // The stored type must be `type` and `bytes` the size of what is read.
  virtual absl::Status Read(const std::string& name, H5Type type, void* data,
                            int64_t bytes) const = 0;
  virtual absl::Status ReadRows(const std::string& name, H5Type type, int64_t row_begin,
                                int64_t rows, void* data, int64_t bytes) const = 0;
  virtual absl::StatusOr<std::string> ReadText(const std::string& name) const = 0;
  virtual bool Has(const std::string& name) const = 0;
  virtual std::vector<std::string> Datasets() const = 0;  // full paths ("a/b"), sorted; texts too

  // Flush, close, fsync; the file is whole after it returns OK. The destructor closes without that
  // promise. Nothing else may be called afterwards.
  virtual absl::Status Close() = 0;
};

}  // namespace mneme
