// Where a run says what it does while it trains.
#pragma once

#include <cstdio>
#include <string>

#include "absl/status/statusor.h"

namespace mneme {

// A file (run.log), or standard error. Used by one thread.
class RunLog {
 public:
  // Appends to `path`; empty: standard error, each line behind `prefix`. Errors: a file that cannot
  // be opened.
  static absl::StatusOr<RunLog> Open(const std::string& path, const std::string& prefix = "");
  RunLog(RunLog&& other) noexcept;
  RunLog& operator=(RunLog&& other) noexcept;
  ~RunLog();

  // One line or several without the last line end, handed to the system at once. What cannot be
  // written is lost without a word.
  void Say(const std::string& text);
  bool is_file() const { return file_ != nullptr; }

 private:
  RunLog(std::FILE* file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}
  std::FILE* file_ = nullptr;
  std::string prefix_;
};

}  // namespace mneme
