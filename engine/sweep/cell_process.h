// The process of a cell, or of several side by side: whatever ends it ends these alone.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

struct CellExit {
  int code = 0;      // exit code; 128 + signal where a signal ended it
  std::string text;  // "exit code 2", "killed by signal 9 (Killed)"
};

// A running shell line in a process group of its own. Between it and this process stands a keeper,
// which kills the whole group when this process is gone, whatever ended it (kill -9 included).
class CellProcess {
 public:
  // Standard output is appended to `output`, standard error to `log`; both may be one file. The
  // environment is this process's without what says "you are a rank of that MPI job": a cell starts
  // its own. Where this process shares its machine with other workers of one mpirun and
  // OMP_NUM_THREADS is not set, the cell gets its share. REQUIRES: no other threads.
  static absl::StatusOr<CellProcess> Start(const std::string& line, const std::string& output,
                                           const std::string& log);
  CellProcess(CellProcess&& other) noexcept;
  CellProcess& operator=(CellProcess&&) = delete;
  ~CellProcess();

  // How it ended; nothing while it runs.
  std::optional<CellExit> Poll();
  // To the whole group.
  void Signal(int signal);
  // Kills the group and waits until it is gone.
  void Kill();

 private:
  CellProcess(pid_t keeper, pid_t group, int socket)
      : keeper_(keeper), group_(group), socket_(socket) {}
  pid_t keeper_;
  pid_t group_;
  int socket_;  // the keeper's other end: closed when this process dies
};

// `{name}` of a launch line replaced; others are left as they are.
std::string FillLaunchLine(const std::string& line,
                           const std::map<std::string, std::string>& words);
// As one word of a shell line.
std::string ShellQuoted(const std::string& text);
// The environment of a cell, "NAME=value" each.
std::vector<std::string> CellEnvironment(char** environment);

}  // namespace mneme
