// One safetensors file: 8 bytes of header length, a JSON header, the tensors back to back
// (github.com/huggingface/safetensors, "Format"). Read by ranges, written front to back: neither
// holds more than it is asked for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/convert/element.h"

namespace mneme {

inline constexpr int64_t kMostHeaderBytes = 100'000'000;  // as the format's own reader

struct StoredTensor {
  std::string name;
  Element element = Element::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // byte of the file, behind length and header
  int64_t end = 0;

  int64_t elements() const { return (end - begin) / BytesOf(element); }
};

struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  // in order of their bytes
  std::map<std::string, std::string> metadata;
};

// The product of a shape; −1 where a dim is negative or it does not fit an int64.
int64_t ShapeElements(const std::vector<int64_t>& shape);

// `text` is the JSON, the file has file_bytes in all. DataLoss naming `path`, the tensor and the
// cause: not such JSON, a name twice, an unknown dtype, offsets that are not the shape's bytes,
// overlap, leave holes or reach beyond the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text, int64_t file_bytes,
                                                         const std::string& path);

class SafetensorsFile {
 public:
  // Reads the header. Errors: NotFound, PermissionDenied; DataLoss where it is no whole file.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }
  // Elements [first, first + to.size()) of one of its tensors. DataLoss where the file ends early.
  absl::Status Read(const StoredTensor& tensor, int64_t first, absl::Span<double> to) const;

 private:
  SafetensorsFile(std::string path, int descriptor)
      : path_(std::move(path)), descriptor_(descriptor) {}
  std::string path_;
  int descriptor_;
  SafetensorsHeader header_;
};

// A tensor that is going to be written.
struct PlannedTensor {
  std::string name;
  Element element = Element::kF32;
  std::vector<int64_t> shape;

  int64_t bytes() const { return ShapeElements(shape) * BytesOf(element); }
};

// Length and JSON of a file of these tensors in this order, padded to a multiple of 8.
std::string MakeSafetensorsHeader(const std::vector<PlannedTensor>& tensors,
                                  const std::map<std::string, std::string>& metadata);

// Writes PATH.part front to back; Close syncs it and gives it its name. Given up without Close, the
// part is removed.
class SafetensorsWriter {
 public:
  // The header is written at once. Errors of all calls: files (ResourceExhausted where the disk is
  // full).
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<PlannedTensor>& tensors,
      const std::map<std::string, std::string>& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next elements of the tensor that is not full yet, in the order of the plan, and no more
  // than it has room for.
  absl::Status Append(absl::Span<const double> values);
  // REQUIRES: every tensor is full.
  absl::Status Close();

 private:
  explicit SafetensorsWriter(std::string path) : path_(std::move(path)) {}
  absl::Status Write(const char* bytes, size_t size);

  std::string path_;
  int descriptor_ = -1;
  std::vector<PlannedTensor> tensors_;
  size_t at_ = 0;         // tensor being filled
  int64_t elements_ = 0;  // of it, written
  std::vector<char> buffer_;
};

}  // namespace mneme
