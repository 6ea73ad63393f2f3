#include "engine/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "configs/load.h"
#include "configs/stages.h"
#include "data/files.h"
#include "engine/report/result.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

bool HasBytes(const std::string& path) {
  const absl::StatusOr<int64_t> size = FileSize(path);
  return size.ok() && *size > 0;
}

constexpr int kLockTries = 50;  // a tenth of a second each

bool IsOpenAs(int descriptor, const std::string& path) {
  struct stat mine = {}, there = {};
  return fstat(descriptor, &mine) == 0 && stat(path.c_str(), &there) == 0 &&
         mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

std::string HolderText() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return "process " + std::to_string(getpid()) + " on " + host + "\n";
}

std::string FirstLine(const std::string& path) {
  const std::string text = ReadFileBytes(path).value_or("an unknown process");
  return text.substr(0, text.find('\n'));
}

// Newest first.
absl::StatusOr<std::vector<std::string>> Candidates(const std::string& path) {
  std::error_code error;
  const bool named = fs::path(path).filename().string().starts_with("step-");
  if ((named && fs::is_directory(path, error)) || fs::exists(path + "/manifest.json", error)) {
    return std::vector<std::string>{path};
  }
  for (const std::string& folder : {path + "/checkpoints", path}) {
    std::vector<std::string> found = ListCandidates(folder);
    if (!found.empty()) return found;
  }
  return absl::NotFoundError(path + ": is no checkpoint, and no run folder that holds one");
}

// A config.yaml as a run leaves it says every key in its own words: written anew it is the same.
bool IsWrittenByRun(const std::string& text, const std::string& path) {
  const absl::StatusOr<RunConfig> config = ParseConfig(text, path);
  return config.ok() && DumpConfig(*config) == text;
}

// What a run writes would take the place of somebody's own file.
absl::Status CheckNothingForeign(const RunFolder& folder) {
  const auto refuse = [](const std::string& path) {
    return absl::InvalidArgumentError(
        path + ": is there already, and no run wrote it; a run would put its own in its place. " +
        "Move it elsewhere, or give another run.dir");
  };
  const absl::StatusOr<std::string> text = ReadFileBytes(folder.config());
  if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
  if (text.ok() && !folder.HoldsRun() && !IsWrittenByRun(*text, folder.config())) {
    return refuse(folder.config());
  }
  // A run writes its config before all else.
  if (text.ok() || !ListCandidates(folder.checkpoints()).empty()) return absl::OkStatus();
  for (const std::string& path : {folder.metrics(), folder.result(), folder.documents()}) {
    if (HasBytes(path)) return refuse(path);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FolderLock> FolderLock::Take(const std::string& folder) {
  const std::string path = folder + "/.lock";
  int descriptor = -1;
  for (int tries = 0;; ++tries) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) return FileError(folder, "make the folder", error.value());
    descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) {
      if (errno == ENOENT && tries < kLockTries) continue;  // taken away in between
      return FileError(path, "open", errno);
    }
    const int code = flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    // Who held it may have taken the file away with a folder that it had made.
    if (code == 0 && IsOpenAs(descriptor, path)) break;
    close(descriptor);
    if (code != 0 && code != EWOULDBLOCK) return FileError(path, "lock", code);
    if (tries >= kLockTries) {
      return absl::UnavailableError(folder + ": " + FirstLine(path) +
                                    " is writing this run; wait for it to end, or give another "
                                    "run.dir");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  // Who holds it is only for the message of others; a failure here harms nothing.
  const std::string holder = HolderText();
  if (ftruncate(descriptor, 0) == 0) {
    [[maybe_unused]] const ssize_t written = pwrite(descriptor, holder.data(), holder.size(), 0);
  }
  return FolderLock(descriptor);
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}
FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}
FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

bool RunFolder::HoldsRun() const {
  return !ListCandidates(checkpoints()).empty() || HasBytes(result()) || HasBytes(metrics());
}

absl::Status CheckMayRun(const RunFolder& folder, const RunConfig& config) {
  // What cannot be listed may hold checkpoints: nothing begins anew over them.
  const absl::Status listed = ListFolder(folder.checkpoints()).status();
  if (!listed.ok() && !absl::IsNotFound(listed)) return listed;
  RETURN_IF_ERROR(CheckNothingForeign(folder));
  const bool holds = folder.HoldsRun();
  if (config.run.resume == "must" && ListCandidates(folder.checkpoints()).empty()) {
    return absl::InvalidArgumentError(folder.dir +
                                      ": holds no checkpoint to go on from, and run.resume is "
                                      "must; use auto to begin");
  }
  if (!holds) return absl::OkStatus();
  if (config.run.resume == "never") {
    return absl::InvalidArgumentError(folder.dir +
                                      ": holds a run already, and run.resume is never; give "
                                      "another run.dir, or use auto to go on");
  }
  const absl::StatusOr<std::string> text = ReadFileBytes(folder.config());
  if (!text.ok()) return absl::OkStatus();  // the checkpoint's own checks remain
  ASSIGN_OR_RETURN(const RunConfig before, ParseConfig(*text, folder.config()));
  std::string lines;
  for (const ConfigDifference& d : CompareConfigs(before, config)) {
    if (!MayChangeOnResume(d.key)) lines += "\n  " + d.key + ": " + d.before + " -> " + d.after;
  }
  if (lines.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      folder.dir + ": holds a run of another configuration (before -> now):" + lines +
      "\nput the old values back to go on, or give another run.dir");
}

bool IsFinished(const RunFolder& folder, const RunConfig& config,
                const std::function<void(const std::string&)>& warn) {
  const std::vector<std::string> whole = ListCheckpoints(folder.checkpoints());
  if (whole.empty()) return false;
  const absl::StatusOr<RunPosition> position = ReadCheckpointPosition(whole.front());
  const int64_t last = static_cast<int64_t>(config.stages.size()) - 1;
  if (!position.ok() || position->stage < last) return false;
  const int64_t steps = StageSteps(config.stages.back());
  if (position->stage_step < steps) return false;
  if (position->stage_step > steps) {
    warn("warning: the run has made " + std::to_string(position->stage_step) +
         " steps of its last stage already, more than the " + std::to_string(steps) +
         " that are asked for");
  }
  const absl::StatusOr<StoredResult> result = ReadResult(folder.result());
  if (!result.ok() && !absl::IsNotFound(result.status())) {
    warn("warning: " + std::string(result.status().message()) + "; it is written again");
  }
  return result.ok() && result->steps == position->step;
}

absl::StatusOr<std::string> FindCheckpoint(World& world, const std::string& path,
                                           const std::function<void(const std::string&)>& warn) {
  // One rank looks, all go by what it saw.
  absl::StatusOr<std::vector<std::string>> found = std::vector<std::string>{};
  if (world.rank() == 0) found = Candidates(path);
  RETURN_IF_ERROR(world.Agree(found.status()));
  std::string lines;
  for (const std::string& candidate : *found) lines += candidate + "\n";
  std::istringstream list(world.Broadcast(lines));
  std::string reasons;
  for (std::string candidate; std::getline(list, candidate);) {
    const absl::Status status = VerifyCheckpoint(world, candidate);
    if (status.ok()) return candidate;
    // What cannot be read may be sound: nothing older goes on over it.
    if (!absl::IsDataLoss(status) && !absl::IsNotFound(status) && !absl::IsInvalidArgument(status))
      return status;
    reasons += "\n  " + std::string(status.message());
    if (candidate == path) return absl::DataLossError(path + ": is no whole checkpoint:" + reasons);
    if (warn) warn("warning: passing over " + candidate + ": " + std::string(status.message()));
  }
  return absl::DataLossError(path + ": none of its checkpoints is whole:" + reasons +
                             "\nremove them to begin anew, or bring one back from a copy");
}

}  // namespace mneme
