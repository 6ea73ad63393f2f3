#include "data/inputs.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

InputKind KindOf(const fs::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".jsonl" || ending == ".ndjson") return InputKind::kJsonLines;
  return ending == ".npy" ? InputKind::kIds : InputKind::kText;
}

bool IsTaken(const fs::path& path) {
  const std::string ending = path.extension().string();
  const std::string name = path.filename().string();
  return name[0] != '.' && (ending == ".txt" || ending == ".text" || ending == ".md" ||
                            ending == ".jsonl" || ending == ".ndjson");
}

absl::Status AddFile(const fs::path& path, std::vector<InputFile>& files) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path.string()));
  files.push_back({.path = path.string(), .kind = KindOf(path), .bytes = bytes});
  return absl::OkStatus();
}

absl::Status AddFolder(const std::string& folder, std::vector<InputFile>& files) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator walk(folder, error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    std::error_code ignored;
    if (walk->is_regular_file(ignored) && IsTaken(walk->path())) found.push_back(walk->path());
  }
  if (error) return FileError(folder, "read", error.value());
  if (found.empty()) {
    return absl::InvalidArgumentError(
        folder +
        ": holds no *.txt, *.text, *.md, *.jsonl or *.ndjson file; name other files "
        "one by one");
  }
  std::sort(found.begin(), found.end());
  for (const fs::path& path : found) RETURN_IF_ERROR(AddFile(path, files));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<InputFile>> FindInputs(const std::vector<std::string>& inputs) {
  if (inputs.empty()) return absl::InvalidArgumentError("no input named; give files or folders");
  std::vector<InputFile> files;
  for (const std::string& input : inputs) {
    std::error_code error;
    RETURN_IF_ERROR(fs::is_directory(input, error) ? AddFolder(input, files)
                                                   : AddFile(input, files));
  }
  const bool ids = files.front().kind == InputKind::kIds;
  for (const InputFile& file : files) {
    if ((file.kind == InputKind::kIds) == ids) continue;
    return absl::InvalidArgumentError("inputs mix token ids and text: " + files.front().path +
                                      " and " + file.path + "; prepare them one at a time");
  }
  return files;
}

}  // namespace mneme
