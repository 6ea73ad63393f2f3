// Reads one-dimensional integer arrays from .npy files (format 1.0 to 3.0), in pieces.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mneme {

class NpyReader {
 public:
  // InvalidArgument, with the file's name and what it holds, for anything but a little-endian,
  // C-ordered, one-dimensional array of u16, u32, i32 or i64 whose size fits the file's.
  static absl::StatusOr<std::unique_ptr<NpyReader>> Open(const std::string& path);

  int64_t size() const { return size_; }               // elements
  const std::string& dtype() const { return dtype_; }  // "<u2", "<u4", "<i4" or "<i8"
  // The next elements, widened; of u32 none is negative. REQUIRES: at least so many are left.
  // Errors: of reading, naming the file.
  absl::Status Read(absl::Span<int64_t> out);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  NpyReader() = default;
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string dtype_;
  int64_t size_ = 0;
  int64_t done_ = 0;
};

}  // namespace mneme
