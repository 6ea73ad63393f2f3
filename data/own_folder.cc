#include "data/own_folder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNamed = 4;  // of what is foreign

struct Contents {
  std::vector<std::string> own;  // relative; a folder before what it holds
  std::vector<std::string> foreign;
};

// Foreign folders are named and not looked into: one may be somebody's whole home.
absl::Status List(const std::string& folder, const std::string& below, const OwnPaths& own,
                  Contents& contents) {
  std::error_code error;
  ASSIGN_OR_RETURN(std::vector<fs::directory_entry> entries, ListFolder(folder + "/" + below));
  std::sort(entries.begin(), entries.end());
  for (const fs::directory_entry& entry : entries) {
    const std::string path = below + entry.path().filename().string();
    const fs::file_status status = entry.symlink_status(error);
    if (error) return FileError(folder + "/" + path, "look at", error.value());
    const bool is_folder = fs::is_directory(status);
    if ((!is_folder && !fs::is_regular_file(status)) || !own(path, is_folder)) {
      contents.foreign.push_back(is_folder ? path + "/" : path);
      continue;
    }
    contents.own.push_back(path);
    if (is_folder) RETURN_IF_ERROR(List(folder, path + "/", own, contents));
  }
  return absl::OkStatus();
}

absl::Status CheckContents(const std::string& folder, const OwnPaths& own, const std::string& maker,
                           Contents& contents) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(folder, error);
  if (fs::is_symlink(status)) {
    return absl::FailedPreconditionError(folder + ": is a link to " +
                                         fs::read_symlink(folder, error).string() +
                                         "; name the folder itself");
  }
  if (!fs::is_directory(status)) {
    return absl::FailedPreconditionError(folder + ": is no folder; name another one");
  }
  RETURN_IF_ERROR(List(folder, "", own, contents));
  if (contents.foreign.empty()) return absl::OkStatus();
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, contents.foreign.size()); ++i) {
    names += (i > 0 ? ", " : "") + contents.foreign[i];
  }
  if (contents.foreign.size() > kNamed) {
    names += " and " + std::to_string(contents.foreign.size() - kNamed) + " more";
  }
  return absl::FailedPreconditionError(
      folder + ": holds what " + maker + " did not make: " + names +
      "; nothing was removed. Move that elsewhere, or name another folder");
}

}  // namespace

absl::Status CheckOwn(const std::string& folder, const OwnPaths& own, const std::string& maker) {
  Contents contents;
  return CheckContents(folder, own, maker, contents);
}

absl::Status EmptyOwn(const std::string& folder, const OwnPaths& own, const std::string& maker,
                      const std::string& keep) {
  Contents contents;
  RETURN_IF_ERROR(CheckContents(folder, own, maker, contents));
  std::error_code error;
  for (auto path = contents.own.rbegin(); path != contents.own.rend(); ++path) {
    if (*path == keep) continue;
    fs::remove(folder + "/" + *path, error);
    if (error) return FileError(folder + "/" + *path, "remove", error.value());
  }
  return absl::OkStatus();
}

absl::Status RemoveOwn(const std::string& folder, const OwnPaths& own, const std::string& maker) {
  std::error_code error;
  if (fs::symlink_status(folder, error).type() == fs::file_type::not_found) {
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(EmptyOwn(folder, own, maker, ""));
  fs::remove(folder, error);
  return error ? FileError(folder, "remove", error.value()) : absl::OkStatus();
}

absl::Status CheckMayWrite(const std::string& path, const std::string& begins) {
  std::error_code error;
  if (!fs::exists(path, error)) return absl::OkStatus();
  if (fs::is_regular_file(path, error)) {
    std::string head(begins.size(), '\0');
    std::ifstream in(path, std::ios::binary);
    in.read(head.data(), static_cast<std::streamsize>(head.size()));
    if (in.gcount() == 0 && in.eof()) return absl::OkStatus();
    if (head == begins) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(path + ": is something else already, and would be lost; " +
                                       "name another file");
}

}  // namespace mneme
