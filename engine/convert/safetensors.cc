#include "engine/convert/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "configs/json_text.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kReadBytes = int64_t{4} << 20;  // at once

absl::Status Torn(const std::string& path, const std::string& why) {
  return absl::DataLossError(path + ": " + why);
}

// pread until `size` bytes are there.
absl::Status ReadAt(const std::string& path, int descriptor, int64_t at, char* to, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::pread(descriptor, to + done, size - done, at + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(path, "read", errno);
    if (got == 0) return Torn(path, "ends early: it is truncated; get it again");
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

uint64_t LittleEndian(const char* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

}  // namespace

int64_t ShapeElements(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t dim : shape) {
    if (dim < 0) return -1;
    if (dim > 0 && product > std::numeric_limits<int64_t>::max() / dim) return -1;
    product *= dim;
  }
  return product;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return FileError(path, "open", errno);
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path, descriptor));
  if (bytes < kLengthBytes) {
    return Torn(path, "has " + std::to_string(bytes) + " bytes: no safetensors file is so short");
  }
  char prefix[kLengthBytes];
  RETURN_IF_ERROR(ReadAt(path, descriptor, 0, prefix, sizeof prefix));
  const uint64_t length = LittleEndian(prefix);
  if (length > static_cast<uint64_t>(kMostHeaderBytes)) {
    return Torn(path, "states a header of " + std::to_string(length) + " bytes, more than the " +
                          std::to_string(kMostHeaderBytes) +
                          " that a safetensors file may have: it is none, or damaged");
  }
  if (static_cast<int64_t>(length) > bytes - kLengthBytes) {
    return Torn(path, "states a header of " + std::to_string(length) + " bytes and has " +
                          std::to_string(bytes) + " in all: it is truncated; get it again");
  }
  std::string text(length, '\0');
  RETURN_IF_ERROR(ReadAt(path, descriptor, kLengthBytes, text.data(), text.size()));
  ASSIGN_OR_RETURN(file->header_, ParseSafetensorsHeader(text, bytes, path));
  return file;
}

SafetensorsFile::~SafetensorsFile() { ::close(descriptor_); }

absl::Status SafetensorsFile::Read(const StoredTensor& tensor, int64_t first,
                                   absl::Span<double> to) const {
  const int64_t size = BytesOf(tensor.element);
  CHECK_GE(first, 0);
  CHECK_LE(first + static_cast<int64_t>(to.size()), tensor.elements());
  std::vector<char> buffer;
  const size_t at_once = static_cast<size_t>(kReadBytes / size);
  for (size_t done = 0; done < to.size(); done += at_once) {
    const size_t count = std::min(at_once, to.size() - done);
    buffer.resize(count * static_cast<size_t>(size));
    const int64_t at = tensor.begin + (first + static_cast<int64_t>(done)) * size;
    RETURN_IF_ERROR(ReadAt(path_, descriptor_, at, buffer.data(), buffer.size()));
    Decode(tensor.element, buffer.data(), to.subspan(done, count));
  }
  return absl::OkStatus();
}

std::string MakeSafetensorsHeader(const std::vector<PlannedTensor>& tensors,
                                  const std::map<std::string, std::string>& metadata) {
  JsonObject json;
  if (!metadata.empty()) {
    JsonObject texts;
    for (const auto& [key, value] : metadata) texts.Add(key, value);
    json.AddRaw("__metadata__", texts.Text());
  }
  int64_t offset = 0;
  for (const PlannedTensor& tensor : tensors) {
    std::string shape;
    for (const int64_t dim : tensor.shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(dim);
    }
    const int64_t end = offset + tensor.bytes();
    JsonObject entry;
    entry.Add("dtype", ElementName(tensor.element))
        .AddRaw("shape", "[" + shape + "]")
        .AddRaw("data_offsets", "[" + std::to_string(offset) + "," + std::to_string(end) + "]");
    json.AddRaw(tensor.name, entry.Text());
    offset = end;
  }
  std::string text = json.Text();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length(kLengthBytes, '\0');
  for (size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  }
  return length + text;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<PlannedTensor>& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path));
  const std::string part = path + ".part";
  writer->descriptor_ = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->descriptor_ < 0) return FileError(part, "create", errno);
  writer->tensors_ = tensors;
  const std::string header = MakeSafetensorsHeader(tensors, metadata);
  RETURN_IF_ERROR(writer->Write(header.data(), header.size()));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink((path_ + ".part").c_str());
}

absl::Status SafetensorsWriter::Write(const char* bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t put = ::write(descriptor_, bytes + done, size - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return FileError(path_, "write", errno);
    done += static_cast<size_t>(put);
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(absl::Span<const double> values) {
  while (at_ < tensors_.size() && elements_ == ShapeElements(tensors_[at_].shape)) {
    ++at_;
    elements_ = 0;
  }
  if (values.empty()) return absl::OkStatus();
  CHECK_LT(at_, tensors_.size());
  const PlannedTensor& tensor = tensors_[at_];
  elements_ += static_cast<int64_t>(values.size());
  CHECK_LE(elements_, ShapeElements(tensor.shape));
  buffer_.resize(values.size() * static_cast<size_t>(BytesOf(tensor.element)));
  Encode(tensor.element, values, buffer_.data());
  return Write(buffer_.data(), buffer_.size());
}

absl::Status SafetensorsWriter::Close() {
  RETURN_IF_ERROR(Append({}));
  CHECK_EQ(at_, tensors_.size());
  if (::fsync(descriptor_) != 0) return FileError(path_, "write", errno);
  if (::close(std::exchange(descriptor_, -1)) != 0) return FileError(path_, "write", errno);
  const std::string part = path_ + ".part";
  if (std::rename(part.c_str(), path_.c_str()) != 0) {
    return FileError(path_, "put in place", errno);
  }
  return absl::OkStatus();
}

}  // namespace mneme
