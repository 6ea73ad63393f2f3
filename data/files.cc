#include "data/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "configs/text.h"
#include "kernels/core/check.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace mneme {
namespace {

// An open file descriptor, closed when it goes.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  // Errors of delayed writes come out here.
  bool Close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

std::string Hex(uint64_t value) {
  std::array<char, 17> text;
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(value));
  return text.data();
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// read(2) until `size` bytes or the end; −1 on error.
ssize_t ReadFully(int fd, char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(fd, out + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return static_cast<ssize_t>(done);
}

bool WriteFully(int fd, const char* bytes, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t put = ::write(fd, bytes + done, size - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

absl::Status WriteAndSync(const std::string& path, const std::string& bytes) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file.ok()) return FileError(path, "create", errno);
  if (!WriteFully(file.get(), bytes.data(), bytes.size())) return FileError(path, "write", errno);
  if (::fsync(file.get()) != 0) return FileError(path, "write", errno);
  if (!file.Close()) return FileError(path, "write", errno);
  return absl::OkStatus();
}

// What is read is a regular file: a pipe that nobody writes to would hang, a device need not end.
absl::Status CheckRegular(const std::string& path, struct stat& info) {
  if (::stat(path.c_str(), &info) != 0) return FileError(path, "open", errno);
  if (S_ISREG(info.st_mode)) return absl::OkStatus();
  return absl::InvalidArgumentError(path + (S_ISDIR(info.st_mode)
                                                ? ": is a folder, not a file"
                                                : ": is a pipe or a device, not a file"));
}

struct StateFree {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

absl::Status FileError(const std::string& path, const std::string& deed, int code) {
  const std::string text = path + ": cannot " + deed + ": " + std::strerror(code);
  switch (code) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(text + "; free some space, or choose another folder");
    case EIO:
      return absl::DataLossError(text);
    case EISDIR:
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP:
      return absl::InvalidArgumentError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::StatusOr<std::string> FileDigest(const std::string& path,
                                       const std::function<void()>& on_piece) {
  struct stat info;
  RETURN_IF_ERROR(CheckRegular(path, info));
  Descriptor file(path, O_RDONLY);
  if (!file.ok()) return FileError(path, "open", errno);
  std::unique_ptr<XXH3_state_t, StateFree> state(XXH3_createState());
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(size_t{1} << 20);
  for (;;) {
    const ssize_t got = ReadFully(file.get(), buffer.data(), buffer.size());
    if (got < 0) return FileError(path, "read", errno);
    if (got == 0) break;
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<size_t>(got));
    if (on_piece) on_piece();
  }
  return Hex(XXH3_64bits_digest(state.get()));
}

std::string BytesDigest(const std::string& bytes) {
  return Hex(XXH3_64bits(bytes.data(), bytes.size()));
}

uint64_t BytesHash(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

std::string ExactText(double value) {
  std::string decimals = std::to_string(value);
  return std::strtod(decimals.c_str(), nullptr) == value ? decimals : NumberText(value);
}

absl::Status WriteFileAtomically(const std::string& path, const std::string& bytes) {
  const std::string part = path + ".tmp";
  absl::Status status = WriteAndSync(part, bytes);
  if (status.ok() && std::rename(part.c_str(), path.c_str()) != 0) {
    status = FileError(path, "put in place", errno);
  }
  if (!status.ok()) {
    ::unlink(part.c_str());
    return status;
  }
  return SyncPath(FolderOf(path));
}

absl::StatusOr<std::string> ReadFileBytes(const std::string& path) {
  struct stat info;
  RETURN_IF_ERROR(CheckRegular(path, info));
  Descriptor file(path, O_RDONLY);
  if (!file.ok()) return FileError(path, "open", errno);
  std::string bytes;
  std::vector<char> buffer(size_t{1} << 16);
  for (;;) {
    const ssize_t got = ReadFully(file.get(), buffer.data(), buffer.size());
    if (got < 0) return FileError(path, "read", errno);
    if (got == 0) return bytes;
    bytes.append(buffer.data(), static_cast<size_t>(got));
  }
}

absl::StatusOr<int64_t> FileSize(const std::string& path) {
  struct stat info;
  RETURN_IF_ERROR(CheckRegular(path, info));
  return static_cast<int64_t>(info.st_size);
}

absl::StatusOr<std::vector<std::filesystem::directory_entry>> ListFolder(
    const std::string& folder) {
  std::error_code error;
  std::vector<std::filesystem::directory_entry> entries;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    entries.push_back(*it);
  }
  if (error) return FileError(folder, "read", error.value());
  return entries;
}

absl::Status SyncPath(const std::string& path) {
  Descriptor file(path, O_RDONLY);
  if (!file.ok()) return FileError(path, "open", errno);
  // Some file systems do not know fsync of a folder and say EINVAL: nothing is lost then that could
  // be kept.
  if (::fsync(file.get()) != 0 && errno != EINVAL) return FileError(path, "write", errno);
  return absl::OkStatus();
}

}  // namespace mneme
