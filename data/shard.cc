#include "data/shard.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kernels/core/check.h"

namespace mneme {
namespace {

absl::Status Bad(const std::string& path, const std::string& why) {
  return absl::DataLossError(path + ": " + why + "; prepare the corpus again");
}

// Where `count` values of a type lie in the file.
absl::StatusOr<int64_t> Locate(const H5File& file, const std::string& path, const std::string& name,
                               H5Type type, int64_t count, int64_t file_bytes) {
  ASSIGN_OR_RETURN(const H5DatasetInfo info, file.Info(name));
  if (info.type != type || info.shape != std::vector<int64_t>{count}) {
    return Bad(path, "dataset '" + name + "' is not " + std::to_string(count) + " values of " +
                         H5TypeName(type));
  }
  const int64_t bytes = count * H5TypeBytes(type);
  if (info.offset < 0 || info.offset % 8 != 0 || info.offset > file_bytes - bytes) {
    return Bad(path, "dataset '" + name + "' is not contiguous and aligned");
  }
  return info.offset;
}

}  // namespace

absl::Status CheckFile(const std::string& folder, const ManifestFile& file) {
  const std::string path = folder + "/" + file.name;
  const auto bytes = FileSize(path);
  if (absl::IsNotFound(bytes.status())) return Bad(path, "is missing");
  if (absl::IsInvalidArgument(bytes.status())) return Bad(path, "is no file that can be read");
  RETURN_IF_ERROR(bytes.status());
  if (*bytes != file.bytes) {
    return Bad(path, "has " + std::to_string(*bytes) + " bytes where the manifest has " +
                         std::to_string(file.bytes));
  }
  ASSIGN_OR_RETURN(const std::string digest, FileDigest(path));
  if (digest != file.digest) {
    return Bad(path, "is damaged: checksum " + digest + " where the manifest has " + file.digest);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Shard>> Shard::Open(const std::string& folder,
                                                         const ManifestShard& entry,
                                                         const std::string& vocabulary_digest,
                                                         int64_t vocabulary_size) {
  RETURN_IF_ERROR(CheckFile(folder, entry.file));
  const std::string path = folder + "/" + entry.file.name;
  ASSIGN_OR_RETURN(const std::unique_ptr<H5File> file, H5File::Open(path));
  ASSIGN_OR_RETURN(const std::string made_for, file->ReadText(kVocabularyDigestName));
  if (made_for != vocabulary_digest) {
    return Bad(
        path, "was made for vocabulary " + made_for + " where the corpus has " + vocabulary_digest);
  }
  const H5Type type = TokenType(vocabulary_size);
  const int64_t bytes = entry.file.bytes;
  ASSIGN_OR_RETURN(const int64_t tokens_at,
                   Locate(*file, path, kTokensName, type, entry.tokens, bytes));
  ASSIGN_OR_RETURN(const int64_t begins_at,
                   Locate(*file, path, kBeginsName, H5Type::kI64, entry.documents, bytes));

  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError(path, "open", errno);
  void* map = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, fd, 0);
  const int map_error = errno;
  ::close(fd);
  if (map == MAP_FAILED) return FileError(path, "map", map_error);

  std::unique_ptr<Shard> shard(new Shard);
  shard->map_ = map;
  shard->map_bytes_ = static_cast<size_t>(bytes);
  shard->tokens_ = entry.tokens;
  shard->documents_ = entry.documents;
  const char* data = static_cast<const char*>(map);
  shard->begins_ = reinterpret_cast<const int64_t*>(data + begins_at);
  if (type == H5Type::kU16) {
    shard->narrow_ = reinterpret_cast<const uint16_t*>(data + tokens_at);
  } else {
    shard->wide_ = reinterpret_cast<const uint32_t*>(data + tokens_at);
  }
  if (shard->begins_[0] != 0) return Bad(path, "has tokens before its first document");
  return std::unique_ptr<const Shard>(std::move(shard));
}

Shard::~Shard() {
  if (map_ != nullptr) ::munmap(map_, map_bytes_);
}

int64_t Shard::DocumentOf(int64_t i) const {
  return std::upper_bound(begins_, begins_ + documents_, i) - begins_ - 1;
}

}  // namespace mneme
