#include "data/npy.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

absl::Status Bad(const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(path + ": " + why);
}

// The text after `'key':` up to the end of the value, or "" — headers are Python literals of a
// fixed form.
std::string Value(const std::string& header, const std::string& key) {
  const size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) return "";
  size_t begin = at + key.size() + 3;
  while (begin < header.size() && header[begin] == ' ') ++begin;
  const char first = begin < header.size() ? header[begin] : '\0';
  const char* stop = first == '(' ? ")" : first == '\'' ? "'" : ",}";
  const size_t end = header.find_first_of(stop, begin + 1);
  if (end == std::string::npos) return "";
  const bool bracketed = first == '(' || first == '\'';
  return header.substr(begin, end - begin + (bracketed ? 1 : 0));
}

// "(123,)" -> 123; −1 for any other shape.
int64_t OneDim(const std::string& shape) {
  int64_t size = 0;
  size_t i = 1;
  for (; i < shape.size() && shape[i] >= '0' && shape[i] <= '9'; ++i) {
    if (size > (int64_t{1} << 50)) return -1;
    size = size * 10 + (shape[i] - '0');
  }
  return i > 1 && shape.substr(i) == ",)" ? size : -1;
}

int64_t ElementBytes(const std::string& dtype) {
  if (dtype == "<u2") return 2;
  if (dtype == "<u4" || dtype == "<i4") return 4;
  return dtype == "<i8" ? 8 : 0;
}

// The header's dictionary; "" where there is none.
std::string ReadHeader(std::FILE* file, int64_t* header_end) {
  std::array<unsigned char, 12> begin;
  if (std::fread(begin.data(), 1, 8, file) != 8) return "";
  if (std::memcmp(begin.data(), "\x93NUMPY", 6) != 0) return "";
  const size_t length_bytes = begin[6] == 1 ? 2 : 4;
  if (begin[6] < 1 || begin[6] > 3) return "";
  if (std::fread(begin.data() + 8, 1, length_bytes, file) != length_bytes) return "";
  size_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= size_t{begin[8 + i]} << (8 * i);
  if (length > (size_t{1} << 20)) return "";
  std::string header(length, '\0');
  if (std::fread(header.data(), 1, length, file) != length) return "";
  *header_end = static_cast<int64_t>(8 + length_bytes + length);
  return header;
}

template <class T>
void Widen(const std::vector<char>& bytes, absl::Span<int64_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int64_t>(value);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<NpyReader>> NpyReader::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  std::unique_ptr<NpyReader> reader(new NpyReader);
  reader->path_ = path;
  reader->file_.reset(std::fopen(path.c_str(), "rb"));
  if (reader->file_ == nullptr) return FileError(path, "open", errno);
  int64_t header_end = 0;
  const std::string header = ReadHeader(reader->file_.get(), &header_end);
  if (header.empty()) return Bad(path, "is not a .npy file");
  const std::string dtype = Value(header, "descr");
  reader->dtype_ = dtype.size() > 2 ? dtype.substr(1, dtype.size() - 2) : dtype;
  const int64_t element = ElementBytes(reader->dtype_);
  if (element == 0) {
    return Bad(path, "holds values of type " + dtype +
                         "; ids are one of '<u2', '<u4', '<i4', '<i8' (numpy: ids.astype('<u4'))");
  }
  if (Value(header, "fortran_order") != "False") {
    return Bad(path, "is in Fortran order; save it with numpy.ascontiguousarray(ids)");
  }
  const std::string shape = Value(header, "shape");
  reader->size_ = OneDim(shape);
  if (reader->size_ < 0) {
    return Bad(path, "has shape " + shape + "; ids are one-dimensional (numpy: ids.reshape(-1))");
  }
  const int64_t wanted = header_end + reader->size_ * element;
  if (bytes != wanted) {
    return Bad(path, "has " + std::to_string(bytes) + " bytes where its header asks for " +
                         std::to_string(wanted) +
                         (bytes < wanted ? ": truncated, or not whole yet"
                                         : ": something else follows its ids; save it again"));
  }
  return reader;
}

absl::Status NpyReader::Read(absl::Span<int64_t> out) {
  const auto count = static_cast<int64_t>(out.size());
  CHECK_LE(count, size_ - done_);
  const auto element = static_cast<size_t>(ElementBytes(dtype_));
  std::vector<char> bytes(out.size() * element);
  errno = 0;
  if (std::fread(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
    return FileError(path_, "read", errno != 0 ? errno : EIO);
  }
  if (dtype_ == "<u2") Widen<uint16_t>(bytes, out);
  if (dtype_ == "<u4") Widen<uint32_t>(bytes, out);
  if (dtype_ == "<i4") Widen<int32_t>(bytes, out);
  if (dtype_ == "<i8") Widen<int64_t>(bytes, out);
  done_ += count;
  return absl::OkStatus();
}

}  // namespace mneme
