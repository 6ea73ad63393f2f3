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

// "a/b/" and "a/b" name one folder; its parent is "." where none is named.
fs::path Clean(const std::string& target) {
  fs::path path = fs::path(target).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path;
}

}  // namespace

bool HoldsSomething(const std::string& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return false;
  return !fs::is_directory(folder, error) || !fs::is_empty(folder, error);
}

absl::StatusOr<std::unique_ptr<Staging>> Staging::Begin(const std::string& target,
                                                        const OwnPaths& own,
                                                        const std::string& maker) {
  const fs::path path = Clean(target);
  if (path.filename().empty() || path.filename() == "." || path.filename() == "..") {
    return absl::InvalidArgumentError("'" + target + "' cannot be made: name a folder of its own");
  }
  std::error_code error;
  if (fs::is_symlink(path, error)) {
    return absl::FailedPreconditionError(target + ": is a link to " +
                                         fs::read_symlink(path, error).string() +
                                         "; name the folder itself");
  }
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const fs::path hidden = parent / ("." + path.filename().string() + ".preparing");
  fs::create_directories(hidden, error);
  if (error) return FileError(hidden.string(), "make", error.value());

  std::unique_ptr<Staging> staging(new Staging);
  staging->own_ = [own](const std::string& name, bool is_folder) {
    return (name == kStagingLock && !is_folder) || own(name, is_folder);
  };
  staging->maker_ = maker;
  staging->target_ = path.string();
  const std::string lock = hidden.string() + "/" + kStagingLock;
  staging->lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (staging->lock_ < 0) return FileError(lock, "create", errno);
  if (::flock(staging->lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(target +
                                         ": another process is making it; wait for its end");
  }
  const absl::Status status = staging->TakeOver(hidden.string());
  if (status.ok()) return staging;
  ::unlink(lock.c_str());
  ::rmdir(hidden.c_str());  // where nothing else is in it
  return status;
}

absl::Status Staging::TakeOver(const std::string& hidden) {
  std::error_code error;
  const std::string old = hidden + ".old";
  if (fs::exists(old, error) && !HoldsSomething(target_)) {
    RETURN_IF_ERROR(CheckOwn(old, own_, maker_));
    if (std::rename(old.c_str(), target_.c_str()) != 0) {
      return FileError(target_, "bring back", errno);
    }
  }
  RETURN_IF_ERROR(RemoveOwn(old, own_, maker_));
  RETURN_IF_ERROR(EmptyOwn(hidden, own_, maker_, kStagingLock));
  folder_ = hidden;
  return absl::OkStatus();
}

Staging::~Staging() {
  if (!published_ && !folder_.empty()) (void)RemoveOwn(folder_, own_, maker_);
  if (lock_ >= 0) ::close(lock_);
}

absl::Status Staging::Publish(bool replace) {
  RETURN_IF_ERROR(SyncPath(folder_));
  const std::string old = folder_ + ".old";
  const bool move_away = replace && HoldsSomething(target_);
  if (move_away) {
    RETURN_IF_ERROR(CheckOwn(target_, own_, maker_));
    if (std::rename(target_.c_str(), old.c_str()) != 0) {
      return FileError(target_, "move away", errno);
    }
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
  ::unlink((target_ + "/" + kStagingLock).c_str());
  RETURN_IF_ERROR(RemoveOwn(old, own_, maker_));
  const fs::path parent = fs::path(target_).parent_path();
  return SyncPath(parent.empty() ? "." : parent.string());
}

}  // namespace mneme
