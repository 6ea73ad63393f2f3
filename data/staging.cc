#include "data/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr char kLockName[] = "/.lock";

// "a/b/" and "a/b" name one folder; its parent is "." where none is named.
fs::path Clean(const std::string& target) {
  fs::path path = fs::path(target).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path;
}

absl::Status RemoveContents(const std::string& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename() == fs::path(kLockName).filename()) continue;
    fs::remove_all(entry.path(), error);
    if (error) break;
  }
  return error ? FileError(folder, "empty", error.value()) : absl::OkStatus();
}

}  // namespace

bool HoldsSomething(const std::string& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return false;
  return !fs::is_directory(folder, error) || !fs::is_empty(folder, error);
}

absl::StatusOr<std::unique_ptr<Staging>> Staging::Begin(const std::string& target) {
  const fs::path path = Clean(target);
  if (path.filename().empty() || path.filename() == "." || path.filename() == "..") {
    return absl::InvalidArgumentError("'" + target + "' cannot be made: name a folder of its own");
  }
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const fs::path hidden = parent / ("." + path.filename().string() + ".preparing");
  std::error_code error;
  fs::create_directories(hidden, error);
  if (error) return FileError(hidden.string(), "make", error.value());

  std::unique_ptr<Staging> staging(new Staging);
  staging->target_ = path.string();
  const std::string lock = hidden.string() + kLockName;
  staging->lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (staging->lock_ < 0) return FileError(lock, "create", errno);
  if (::flock(staging->lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(target +
                                         ": another process is making it; wait for its end");
  }
  staging->folder_ = hidden.string();  // ours from here on
  RETURN_IF_ERROR(RemoveContents(staging->folder_));
  return staging;
}

Staging::~Staging() {
  std::error_code ignored;
  if (!published_ && !folder_.empty()) fs::remove_all(folder_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

absl::Status Staging::Publish(bool replace) {
  RETURN_IF_ERROR(SyncPath(folder_));
  const std::string old = folder_ + ".old";
  std::error_code ignored;
  fs::remove_all(old, ignored);
  const bool move_away = replace && HoldsSomething(target_);
  if (move_away && std::rename(target_.c_str(), old.c_str()) != 0) {
    return FileError(target_, "move away", errno);
  }
  // Takes the place of an empty folder; of a full one never.
  if (std::rename(folder_.c_str(), target_.c_str()) != 0) {
    const int code = errno;
    if (move_away) (void)std::rename(old.c_str(), target_.c_str());
    if (code == ENOTEMPTY || code == EEXIST) {
      return absl::FailedPreconditionError(target_ + ": something else was put there meanwhile");
    }
    return FileError(target_, "put in place", code);
  }
  published_ = true;
  // The lock goes along and is removed there, lest another process take the hidden folder for a
  // dead one's.
  ::unlink((target_ + kLockName).c_str());
  fs::remove_all(old, ignored);
  const fs::path parent = fs::path(target_).parent_path();
  return SyncPath(parent.empty() ? "." : parent.string());
}

}  // namespace mneme
