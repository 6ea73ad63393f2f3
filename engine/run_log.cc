#include "engine/run_log.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "data/files.h"

namespace mneme {

absl::StatusOr<RunLog> RunLog::Open(const std::string& path, const std::string& prefix) {
  if (path.empty()) return RunLog(nullptr, prefix);
  // A pipe that nobody reads would hold the run up as it is opened.
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode))
    return absl::InvalidArgumentError(path + ": is a pipe, not a file (run.log)");
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) return FileError(path, "open", errno);
  return RunLog(file, "");
}

RunLog::RunLog(RunLog&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)), prefix_(std::move(other.prefix_)) {}

RunLog& RunLog::operator=(RunLog&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(prefix_, other.prefix_);
  return *this;
}

RunLog::~RunLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void RunLog::Say(const std::string& text) {
  std::string lines = prefix_ + text;
  for (size_t at = lines.find('\n'); at != std::string::npos && !prefix_.empty();
       at = lines.find('\n', at + 1 + prefix_.size())) {
    lines.insert(at + 1, prefix_);
  }
  std::FILE* out = file_ != nullptr ? file_ : stderr;
  std::fprintf(out, "%s\n", lines.c_str());
  std::fflush(out);
}

}  // namespace mneme
