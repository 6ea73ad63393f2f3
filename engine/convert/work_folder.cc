#include "engine/convert/work_folder.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr char kPlanName[] = ".plan";

}  // namespace

absl::StatusOr<WorkFolder> WorkFolder::Open(const std::string& to, const std::string& plan,
                                            bool replace) {
  fs::path target = fs::path(to).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  std::error_code error;
  if (fs::exists(target, error) && !replace) {
    return absl::FailedPreconditionError(to +
                                         ": is there already; give another folder, or --replace");
  }
  WorkFolder work(target.string(), target.string() + ".converting");
  fs::create_directories(work.path_, error);
  if (error) return FileError(work.path_, "make the folder", error.value());
  absl::StatusOr<FolderLock> lock = FolderLock::Take(work.path_);
  if (!lock.ok()) {
    return absl::UnavailableError(work.path_ +
                                  ": another conversion is writing it; wait for it to end");
  }
  work.lock_ = std::move(lock).value();
  const std::string path = work.path_ + "/" + kPlanName;
  const absl::StatusOr<std::string> old = ReadFileBytes(path);
  const bool same = old.ok() && *old == plan;
  std::vector<fs::path> stale;  // of another plan everything, else what was being written
  for (const auto& entry : fs::directory_iterator(work.path_, error)) {
    const fs::path name = entry.path().filename();
    const bool half = name.extension() == ".part" || name.extension() == ".tmp";
    if (name != ".lock" && (half || !same)) stale.push_back(entry.path());
  }
  for (const fs::path& each : stale) fs::remove_all(each, error);
  if (!same) RETURN_IF_ERROR(WriteFileAtomically(path, plan));
  return work;
}

bool WorkFolder::Has(const std::string& name) const {
  std::error_code error;
  return fs::exists(path_ + "/" + name, error);
}

absl::Status WorkFolder::Publish() {
  std::error_code error;
  std::vector<fs::path> hidden;  // plan, lock, leftovers
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    if (entry.path().filename().string()[0] == '.') hidden.push_back(entry.path());
  }
  for (const fs::path& each : hidden) fs::remove_all(each, error);
  RETURN_IF_ERROR(SyncPath(path_));
  const std::string old = to_ + ".replaced";
  if (fs::exists(to_, error)) {
    fs::remove_all(old, error);
    fs::rename(to_, old, error);
    if (error) return FileError(to_, "move aside", error.value());
  }
  fs::rename(path_, to_, error);
  if (error) return FileError(to_, "publish", error.value());
  fs::remove_all(old, error);
  const fs::path parent = fs::path(to_).parent_path();
  return SyncPath(parent.empty() ? "." : parent.string());
}

}  // namespace mneme
