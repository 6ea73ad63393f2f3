#include "engine/sweep/worker.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <sstream>
#include <thread>

#include "configs/load.h"
#include "configs/text.h"
#include "data/files.h"
#include "engine/json.h"
#include "engine/run_folder.h"
#include "engine/signals.h"
#include "engine/sweep/cell_process.h"
#include "engine/sweep/hang_watch.h"
#include "engine/sweep/lease.h"
#include "engine/sweep/shared_files.h"
#include "engine/sweep/sweep_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// A cell's time over that of its steps: start, evaluation, checkpoints.
constexpr double kMoreThanSteps = 1.05;
constexpr auto kPoll = std::chrono::milliseconds(100);

// Unique among all workers, a reused process number included; one word.
std::string OwnerName() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return std::string(host) + ":" + std::to_string(getpid()) + ":" +
         std::to_string(std::random_device()() % 100000);
}

std::string LocalRank() {
  for (const char* variable : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}) {
    if (const char* rank = std::getenv(variable)) return rank;
  }
  return "0";
}

// The GPU of this worker among those that it may see.
std::string Gpu() {
  const char* text = std::getenv("CUDA_VISIBLE_DEVICES");
  if (text == nullptr) return LocalRank();
  std::vector<std::string> devices;
  std::istringstream in(text);
  for (std::string device; std::getline(in, device, ',');) devices.push_back(device);
  if (devices.empty()) return "";
  return devices[static_cast<size_t>(std::atoi(LocalRank().c_str())) % devices.size()];
}

// The last line of a log that says something.
std::string LastLine(const std::string& path) {
  std::string text = ReadFileBytes(path).value_or("");
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

class Worker {
 public:
  Worker(const SweepConfig& sweep, const SweepGrid& grid, const std::string& program)
      : sweep_(sweep),
        grid_(grid),
        program_(program),
        owner_(OwnerName()),
        book_(owner_, sweep.run.lease_seconds) {}

  absl::StatusOr<WorkerResult> Run() {
    RETURN_IF_ERROR(KeepSettings(sweep_));
    for (const SweepCell& cell : grid_.cells) {
      std::error_code error;
      fs::create_directories(FolderOf(sweep_, cell).dir, error);
      if (error) return FileError(FolderOf(sweep_, cell).dir, "make the folder", error.value());
    }
    InstallSignalHandlers();
    while (!stop_) {
      ASSIGN_OR_RETURN(const bool ran, RunOne());
      if (ran) continue;
      if (Open() == 0) break;
      if (!late_.empty() && Fitting() == 0) {
        Say(late_);
        break;
      }
      if (!sweep_.run.wait) {
        Say("no cell is free (run.wait)");
        break;
      }
      // Others hold what is left.
      Wait(sweep_.run.lease_seconds / 10.0);
    }
    return Count();
  }

 private:
  void Say(const std::string& text) const {
    std::fprintf(stderr, "%s: %s\n", owner_.c_str(), text.c_str());
  }

  static std::string NameOf(const SweepCell& cell) {
    std::vector<std::string> axes;
    for (const auto& [name, value] : cell.axes) axes.push_back(name + "=" + value);
    return cell.key + " (" + Join(axes, " ") + ")";
  }

  bool IsOpen(const CellState& state) const {
    return !state.done && state.failures < sweep_.run.attempts;
  }

  int64_t Open() const {
    int64_t open = 0;
    for (const SweepCell& cell : grid_.cells) open += IsOpen(StateOf(sweep_, cell));
    return open;
  }

  // Open cells that would end in time.
  int64_t Fitting() {
    int64_t fitting = 0;
    const double pace = SlowestStep();
    for (const SweepCell& cell : grid_.cells) {
      const CellState state = StateOf(sweep_, cell);
      fitting += IsOpen(state) && EndsInTime(state, pace);
    }
    return fitting;
  }

  // Seconds, of the cells that are done; 0 where none is, or nothing asks for it.
  double SlowestStep() const {
    double pace = 0.0;
    if (sweep_.run.time_limit <= 0.0) return pace;
    for (const SweepCell& cell : grid_.cells) {
      if (const CellState state = StateOf(sweep_, cell); state.done)
        pace = std::max(pace, state.seconds);
    }
    return pace;
  }

  // At `pace` seconds a step, a twentieth more for what is not steps. True where there is no limit,
  // or nothing is known of the pace.
  bool EndsInTime(const CellState& state, double pace) {
    const double limit = sweep_.run.time_limit;
    if (limit <= 0.0) return true;
    const double needs = kMoreThanSteps * pace * (state.steps - state.step);
    const double left = limit - std::chrono::duration<double>(Clock::now() - begin_).count();
    if (left > 0.0 && needs <= left) return true;
    late_ = "begins no more: " + NumberText(std::round(left)) + " of " + NumberText(limit) +
            " s are left (run.time_limit), and a cell takes about " +
            NumberText(std::round(needs)) + " s";
    return false;
  }

  void Wait(double seconds) {
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (Clock::now() < end && !StopAsked()) std::this_thread::sleep_for(kPoll);
  }

  bool StopAsked() {
    if (TakeSignals().stop) stop_ = true;
    return stop_;
  }

  // Takes and runs the first cell that is free; false where there is none.
  absl::StatusOr<bool> RunOne() {
    const double pace = SlowestStep();
    for (const SweepCell& cell : grid_.cells) {
      if (StopAsked()) return true;
      const CellState seen = StateOf(sweep_, cell);
      if (!IsOpen(seen) || !EndsInTime(seen, pace)) continue;
      const CellFolder folder = FolderOf(sweep_, cell);
      ASSIGN_OR_RETURN(std::optional<Lease> lease, book_.Take(folder.dir));
      if (!lease.has_value()) continue;
      // It may have been finished between the look and the lease.
      const CellState state = StateOf(sweep_, cell);
      if (IsOpen(state)) RETURN_IF_ERROR(RunCell(cell, state, *lease));
      lease->Release();
      RETURN_IF_ERROR(WriteResults(sweep_, grid_).status());
      return true;
    }
    return false;
  }

  std::string LaunchLine(const SweepCell& cell) const {
    const CellFolder folder = FolderOf(sweep_, cell);
    return FillLaunchLine(sweep_.run.launch, {{"program", ShellQuoted(program_)},
                                              {"config", ShellQuoted(folder.config())},
                                              {"rho", cell.rho ? NumberText(*cell.rho) : "none"},
                                              {"seed", std::to_string(cell.seed)},
                                              {"gpu", Gpu()},
                                              {"local_rank", LocalRank()}});
  }

  // `before`: where the cell stands.
  absl::Status RunCell(const SweepCell& cell, const CellState& before, Lease& lease) {
    const int64_t failures = before.failures;
    const CellFolder folder = FolderOf(sweep_, cell);
    if (StillWritten(folder)) return absl::OkStatus();
    RunConfig config = cell.config;
    config.run.dir = folder.run();
    RETURN_IF_ERROR(ReplaceFile(folder.config(), DumpConfig(config)));
    Say((lease.generation() > 1 ? "goes on with " : "begins ") + NameOf(cell));
    const auto begin = Clock::now();
    ASSIGN_OR_RETURN(CellProcess process, CellProcess::Start(LaunchLine(cell), folder.log()));
    bool hung = false;
    const std::optional<CellExit> exit = Watch(process, lease, folder, hung);
    if (!exit.has_value()) {
      Say("lost " + NameOf(cell) + " to another worker");
      return absl::OkStatus();
    }
    ++ran_;
    if (hung && exit->code != 0) {
      return Fail(cell, failures + 1,
                  "no progress for " + NumberText(sweep_.run.idle_seconds) +
                      " s (run.idle_seconds), ended; its last line: " + LastLine(folder.log()),
                  *exit);
    }
    if (exit->code == 75 && !stop_ && StateOf(sweep_, cell).step <= before.step) {
      return Fail(cell, failures + 1,
                  "stopped by itself (" + exit->text +
                      ") without a step; its last line: " + LastLine(folder.log()),
                  *exit);
    }
    if (exit->code == 75 || (stop_ && exit->code != 0)) {
      Say("stopped " + NameOf(cell) + " with what it had saved");
      return absl::OkStatus();
    }
    if (exit->code == 0) {
      const absl::Status finished = Finish(cell, failures);
      if (finished.ok()) {
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        Say("finished " + NameOf(cell) + " in " + NumberText(std::round(seconds)) + " s");
        return absl::OkStatus();
      }
      return Fail(cell, failures + 1, std::string(finished.message()), *exit);
    }
    return Fail(cell, failures + 1, exit->text + "; its last line: " + LastLine(folder.log()),
                *exit);
  }

  // A worker that was only thought dead may have left a process that has not ended yet.
  bool StillWritten(const CellFolder& folder) {
    std::error_code error;
    if (!fs::exists(folder.run(), error)) return false;
    const absl::Status lock = FolderLock::Take(folder.run()).status();
    if (lock.ok()) return false;
    Say(std::string(lock.message()));
    return true;
  }

  // Waits for the cell's end, heartbeats meanwhile; ends a cell that hangs. Nothing where the lease
  // was lost: the process is then gone.
  std::optional<CellExit> Watch(CellProcess& process, Lease& lease, const CellFolder& folder,
                                bool& hung) {
    const auto beat = std::chrono::duration<double>(sweep_.run.lease_seconds / 5.0);
    auto next = Clock::now() + beat;
    bool told = false;
    HangWatch watch(folder, sweep_.run.idle_seconds);
    while (true) {
      if (auto exit = process.Poll()) return exit;
      std::this_thread::sleep_for(kPoll);
      if (StopAsked() && !told) {
        process.Signal(SIGTERM);
        told = true;
      }
      if (const int signal = watch.Signal(); signal != 0) process.Signal(signal);
      hung = watch.hung();
      if (Clock::now() < next) continue;
      next = Clock::now() + beat;
      if (lease.Beat()) continue;
      process.Kill();
      return std::nullopt;
    }
  }

  absl::Status Finish(const SweepCell& cell, int64_t failures) {
    const CellFolder folder = FolderOf(sweep_, cell);
    RETURN_IF_ERROR(KeepDocuments(sweep_, cell));
    ASSIGN_OR_RETURN(const std::string record, CellRecord(sweep_, cell, failures));
    RETURN_IF_ERROR(CreateExclusively(folder.done(), record + "\n").status());
    std::error_code ignored;
    if (!sweep_.run.keep_checkpoints) fs::remove_all(folder.run() + "/checkpoints", ignored);
    return absl::OkStatus();
  }

  absl::Status Fail(const SweepCell& cell, int64_t attempt, const std::string& why,
                    const CellExit& exit) {
    const CellFolder folder = FolderOf(sweep_, cell);
    JsonObject json;
    json.Add("why", why).Add("code", exit.code).Add("owner", owner_).Add("log", folder.log());
    RETURN_IF_ERROR(CreateExclusively(folder.failed(attempt), json.Text() + "\n").status());
    Say(NameOf(cell) + " failed, attempt " + std::to_string(attempt) + " of " +
        std::to_string(sweep_.run.attempts) + ": " + why + " (" + folder.log() + ")");
    return absl::OkStatus();
  }

  absl::StatusOr<WorkerResult> Count() {
    WorkerResult result;
    for (const SweepCell& cell : grid_.cells) {
      const CellState state = StateOf(sweep_, cell);
      result.done += state.done;
      result.failed += !state.done && state.failures >= sweep_.run.attempts;
    }
    result.ran = ran_;
    RETURN_IF_ERROR(WriteResults(sweep_, grid_).status());
    const bool early = Open() > 0;  // told to stop, out of time, or not to wait
    result.exit_code = stop_ || early ? 75 : result.failed > 0 ? 1 : 0;
    return result;
  }

  const SweepConfig& sweep_;
  const SweepGrid& grid_;
  const std::string program_;
  const std::string owner_;
  LeaseBook book_;
  const Clock::time_point begin_ = Clock::now();
  int64_t ran_ = 0;
  bool stop_ = false;
  std::string late_;  // why a cell was not begun
};

}  // namespace

absl::StatusOr<WorkerResult> RunCells(const SweepConfig& sweep, const SweepGrid& grid,
                                      const std::string& program) {
  if (!grid.data_fault.empty()) return absl::NotFoundError(grid.data_fault);
  return Worker(sweep, grid, program).Run();
}

}  // namespace mneme
