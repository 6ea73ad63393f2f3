#include "engine/convert/work_folder.h"

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "configs/json_fields.h"
#include "data/files.h"
#include "data/json_file.h"
#include "data/own_folder.h"
#include "engine/convert/convert.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr char kPlanName[] = ".plan";
constexpr char kMaker[] = "mneme convert";

// The files that the certificate of a converted folder names, and itself. Errors: why it names
// none.
absl::StatusOr<std::set<std::string>> CertifiedFiles(const std::string& folder) {
  const std::string path = folder + "/" + kCertificateName;
  const absl::StatusOr<Json> certificate = ReadJson(path);
  RETURN_IF_ERROR(certificate.status());
  std::vector<std::string> faults;
  JsonFields fields(*certificate, "", faults);
  const std::string maker = fields.Text("certificate");
  if (faults.empty() && maker != kMaker) {
    fields.Fault("certificate", "is " + ShowJson(maker) + ", not \"" + kMaker + "\"");
  }
  std::set<std::string> names = {kCertificateName};
  JsonFields to = fields.Fields("to");
  for (const auto& [name, file] : to.FieldsByKey("files")) names.insert(name);
  if (faults.empty()) return names;
  return absl::DataLossError(path + ": " + faults.front());
}

// `hidden`: names that a conversion gives to files beside those of the certificate.
OwnPaths CertifiedPaths(const std::string& folder, std::set<std::string> hidden = {}) {
  hidden.merge(CertifiedFiles(folder).value_or(std::set<std::string>()));
  return [names = std::move(hidden)](const std::string& path, bool is_folder) {
    return !is_folder && names.count(path) > 0;
  };
}

// FailedPrecondition where a folder that is to go is not all a conversion's.
absl::Status CheckConverted(const std::string& folder, const std::set<std::string>& hidden = {}) {
  const absl::Status own = CheckOwn(folder, CertifiedPaths(folder, hidden), kMaker);
  const absl::Status certified = CertifiedFiles(folder).status();
  std::error_code error;
  const bool is_folder = fs::is_directory(fs::symlink_status(folder, error));
  if (own.ok() || certified.ok() || !is_folder) return own;
  if (absl::IsNotFound(certified)) {
    return absl::FailedPreconditionError(std::string(own.message()) + ". There is no " +
                                         kCertificateName + ", which names what a conversion made");
  }
  // All of it is foreign then, and a list of names would not say why.
  return absl::FailedPreconditionError(
      std::string(certified.message()) + "; so nothing tells that a conversion made " + folder +
      ", and nothing was removed. Move that folder elsewhere, or name another one");
}

absl::Status CheckTarget(const fs::path& target, const std::string& to, bool replace) {
  if (target.filename().empty() || target.filename() == "." || target.filename() == "..") {
    return absl::InvalidArgumentError("--to '" + to + "': name a folder of its own");
  }
  std::error_code error;
  if (fs::symlink_status(target, error).type() == fs::file_type::not_found) {
    return absl::OkStatus();
  }
  if (!replace) {
    return absl::FailedPreconditionError(to +
                                         ": is there already; give another folder, or --replace");
  }
  return CheckConverted(target.string());
}

// Begun by a conversion, which says so in its plan before anything else and takes that away after
// all else; or empty.
absl::Status CheckWork(const std::string& path) {
  std::error_code error;
  if (fs::exists(path + "/" + kPlanName, error)) return absl::OkStatus();
  return CheckConverted(path, {".lock", std::string(kPlanName) + ".tmp"});
}

}  // namespace

absl::StatusOr<WorkFolder> WorkFolder::Open(const std::string& to, const std::string& plan,
                                            bool replace) {
  fs::path target = fs::path(to).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  RETURN_IF_ERROR(CheckTarget(target, to, replace));
  std::error_code error;
  WorkFolder work(target.string(), target.string() + ".converting");
  fs::create_directories(work.path_, error);
  if (error) return FileError(work.path_, "make the folder", error.value());
  absl::StatusOr<FolderLock> lock = FolderLock::Take(work.path_);
  if (!lock.ok()) {
    return absl::UnavailableError(work.path_ +
                                  ": another conversion is writing it; wait for it to end");
  }
  work.lock_ = std::move(lock).value();
  RETURN_IF_ERROR(CheckWork(work.path_));
  if (fs::exists(work.Old(), error)) {
    RETURN_IF_ERROR(CheckConverted(work.Old()));
  }
  const std::string path = work.path_ + "/" + kPlanName;
  const absl::StatusOr<std::string> old = ReadFileBytes(path);
  const bool same = old.ok() && *old == plan;
  std::vector<fs::path> stale;  // of another plan everything, else what was being written
  ASSIGN_OR_RETURN(const auto entries, ListFolder(work.path_));
  for (const fs::directory_entry& entry : entries) {
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
  std::vector<fs::path> hidden;  // lock, leftovers
  ASSIGN_OR_RETURN(const auto entries, ListFolder(path_));
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (name[0] == '.' && name != kPlanName) hidden.push_back(entry.path());
  }
  for (const fs::path& each : hidden) fs::remove_all(each, error);
  fs::remove(path_ + "/" + kPlanName, error);
  RETURN_IF_ERROR(SyncPath(path_));
  const OwnPaths replaced = CertifiedPaths(to_);
  if (fs::exists(to_, error)) {
    RETURN_IF_ERROR(CheckConverted(to_));
    RETURN_IF_ERROR(RemoveOwn(Old(), CertifiedPaths(Old()), kMaker));
    fs::rename(to_, Old(), error);
    if (error) return FileError(to_, "move aside", error.value());
  }
  fs::rename(path_, to_, error);
  if (error) return FileError(to_, "publish", error.value());
  RETURN_IF_ERROR(RemoveOwn(Old(), replaced, kMaker));
  const fs::path parent = fs::path(to_).parent_path();
  return SyncPath(parent.empty() ? "." : parent.string());
}

}  // namespace mneme
