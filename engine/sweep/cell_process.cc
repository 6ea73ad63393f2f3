#include "engine/sweep/cell_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// What mpirun and srun tell a rank of itself. Settings that a user makes (OMPI_MCA_btl and so on)
// stay.
constexpr const char* kRankVariables[] = {"PMIX_",
                                          "PMI_",
                                          "OMPI_COMM_",
                                          "OMPI_APP_",
                                          "OMPI_COMMAND",
                                          "OMPI_FILE_",
                                          "OMPI_FIRST_",
                                          "OMPI_NUM_APP",
                                          "OMPI_UNIVERSE",
                                          "OMPI_ARGV",
                                          "OMPI_MCA_ess",
                                          "OMPI_MCA_orte_",
                                          "OMPI_MCA_pmix",
                                          "OMPI_MCA_initial_wdir",
                                          "OMPI_MCA_shmem_RUNTIME",
                                          "SLURM_NTASKS",
                                          "SLURM_NPROCS",
                                          "SLURM_PROCID",
                                          "SLURM_LOCALID",
                                          "SLURM_STEP"};

int LocalSize() {
  const char* text = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  int size = 1;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), size);
  return std::max(1, size);
}

absl::StatusOr<int> OpenToAppend(const std::string& path) {
  // A pipe in its place is an error, and no reader is waited for.
  const int descriptor =
      open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0644);
  if (descriptor < 0) return FileError(path, "open", errno);
  struct stat kind = {};
  if (fstat(descriptor, &kind) == 0 && S_ISREG(kind.st_mode)) return descriptor;
  close(descriptor);
  return absl::FailedPreconditionError(path + ": is no file; move it away");
}

// In a child, between fork and exec: system calls only.
[[noreturn]] void BecomeCell(const char* line, int output, int log, char* const* environment) {
  setpgid(0, 0);
  for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP}) signal(number, SIG_DFL);
  // When memory runs out, the cell goes first, and the worker that reports it stays.
  const int score = open("/proc/self/oom_score_adj", O_WRONLY);
  if (score >= 0) {
    [[maybe_unused]] const ssize_t written = write(score, "500", 3);
    close(score);
  }
  dup2(output, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  const char* const words[] = {"/bin/sh", "-c", line, nullptr};
  execve("/bin/sh", const_cast<char* const*>(words), environment);
  _exit(127);
}

// The keeper: tells the cell's group, waits for its end and tells how it was; ends the group when
// the other end of the socket closes.
[[noreturn]] void Keep(const char* line, int output, int log, char* const* environment,
                       int socket) {
  setpgid(0, 0);  // what is sent to the worker's group does not reach it
  for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP, SIGPIPE})
    signal(number, SIG_IGN);
  const pid_t cell = fork();
  if (cell == 0) BecomeCell(line, output, log, environment);
  close(output);
  close(log);
  if (cell > 0) setpgid(cell, cell);
  if (write(socket, &cell, sizeof cell) != sizeof cell || cell < 0) _exit(1);
  while (true) {
    int status = 0;
    if (waitpid(cell, &status, WNOHANG) == cell) {
      kill(-cell, SIGKILL);  // what a launch line left behind
      [[maybe_unused]] const ssize_t told = write(socket, &status, sizeof status);
      _exit(0);
    }
    pollfd worker = {socket, POLLIN, 0};
    if (poll(&worker, 1, 50) > 0) {
      kill(-cell, SIGKILL);
      waitpid(cell, &status, 0);
      _exit(0);
    }
  }
}

}  // namespace

std::vector<std::string> CellEnvironment(char** environment) {
  std::vector<std::string> kept;
  bool has_threads = false;
  for (char** entry = environment; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const bool of_rank =
        std::any_of(std::begin(kRankVariables), std::end(kRankVariables),
                    [&](const char* prefix) { return text.rfind(prefix, 0) == 0; });
    has_threads = has_threads || text.rfind("OMP_NUM_THREADS=", 0) == 0;
    if (!of_rank) kept.push_back(text);
  }
  const int workers = LocalSize();
  if (workers > 1 && !has_threads) {
    const auto cores = static_cast<int>(std::thread::hardware_concurrency());
    kept.push_back("OMP_NUM_THREADS=" + std::to_string(std::max(1, cores / workers)));
  }
  return kept;
}

absl::StatusOr<CellProcess> CellProcess::Start(const std::string& line, const std::string& output,
                                               const std::string& log) {
  ASSIGN_OR_RETURN(const int to, OpenToAppend(output));
  const absl::StatusOr<int> opened = OpenToAppend(log);
  if (!opened.ok()) {
    close(to);
    return opened.status();
  }
  const int descriptors[2] = {to, *opened};
  const auto close_both = [&] {
    for (const int descriptor : descriptors) close(descriptor);
  };
  std::vector<std::string> environment = CellEnvironment(environ);
  std::vector<char*> pointers;
  for (std::string& entry : environment) pointers.push_back(entry.data());
  pointers.push_back(nullptr);
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    const int error = errno;
    close_both();
    return FileError("a socket", "make", error);
  }
  const pid_t keeper = fork();
  if (keeper == 0) {
    close(sockets[0]);
    Keep(line.c_str(), descriptors[0], descriptors[1], pointers.data(), sockets[1]);
  }
  const int fork_error = errno;
  close_both();
  close(sockets[1]);
  pid_t cell = -1;
  if (keeper < 0 || read(sockets[0], &cell, sizeof cell) != sizeof cell || cell < 0) {
    close(sockets[0]);
    return FileError("/bin/sh", "start", keeper < 0 ? fork_error : EAGAIN);
  }
  return CellProcess(keeper, cell, sockets[0]);
}

CellProcess::CellProcess(CellProcess&& other) noexcept
    : keeper_(other.keeper_), group_(other.group_), socket_(std::exchange(other.socket_, -1)) {}

CellProcess::~CellProcess() {
  if (socket_ >= 0) close(socket_);
}

std::optional<CellExit> CellProcess::Poll() {
  const pid_t ended = waitpid(keeper_, nullptr, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return std::nullopt;
  int status = 0;
  if (read(socket_, &status, sizeof status) != sizeof status) {
    kill(-group_, SIGKILL);
    return CellExit{127, "its keeper was killed"};
  }
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return CellExit{128 + number, "killed by signal " + std::to_string(number) + " (" +
                                      strsignal(number) + ")" +
                                      (number == SIGKILL ? ": out of memory?" : "")};
  }
  return CellExit{WEXITSTATUS(status), "exit code " + std::to_string(WEXITSTATUS(status))};
}

void CellProcess::Signal(int signal) { kill(-group_, signal); }

void CellProcess::Kill() {
  kill(-group_, SIGKILL);
  while (waitpid(keeper_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::string FillLaunchLine(const std::string& line,
                           const std::map<std::string, std::string>& words) {
  std::string out = line;
  for (const auto& [name, value] : words) {
    const std::string place = "{" + name + "}";
    for (size_t at = out.find(place); at != std::string::npos;
         at = out.find(place, at + value.size())) {
      out.replace(at, place.size(), value);
    }
  }
  return out;
}

std::string ShellQuoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace mneme
