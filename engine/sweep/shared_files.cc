#include "engine/sweep/shared_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// A name beside `path` that no other process and no other call has.
std::string DraftName(const std::string& path) {
  static std::atomic<int64_t> counter{0};
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return path + "." + host + "." + std::to_string(getpid()) + "." + std::to_string(counter++) +
         ".tmp";
}

absl::Status WriteDraft(const std::string& draft, const std::string& bytes) {
  const int descriptor = open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return FileError(draft, "make", errno);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = write(descriptor, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  const bool whole = done == bytes.size() && fsync(descriptor) == 0;
  const int error = errno;
  close(descriptor);
  if (whole) return absl::OkStatus();
  unlink(draft.c_str());
  return FileError(draft, "write", error);
}

}  // namespace

absl::StatusOr<bool> CreateExclusively(const std::string& path, const std::string& bytes) {
  const std::string draft = DraftName(path);
  RETURN_IF_ERROR(WriteDraft(draft, bytes));
  bool made = link(draft.c_str(), path.c_str()) == 0;
  const int error = errno;
  if (!made) {
    // Over NFS the answer may be lost although the link was made: the count of names knows.
    struct stat info = {};
    made = stat(draft.c_str(), &info) == 0 && info.st_nlink == 2;
  }
  unlink(draft.c_str());
  if (!made && error != EEXIST) return FileError(path, "link", error);
  return made;
}

absl::Status ReplaceFile(const std::string& path, const std::string& bytes) {
  const std::string draft = DraftName(path);
  RETURN_IF_ERROR(WriteDraft(draft, bytes));
  if (rename(draft.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int error = errno;
  unlink(draft.c_str());
  return FileError(path, "put in place", error);
}

}  // namespace mneme
