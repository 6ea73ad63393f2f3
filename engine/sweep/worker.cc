#include "engine/sweep/worker.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <random>
#include <set>
#include <thread>

#include "configs/text.h"
#include "data/files.h"
#include "engine/signals.h"
#include "engine/sweep/cell_group.h"
#include "engine/sweep/lease.h"
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

class Worker {
 public:
  Worker(const SweepConfig& sweep, const SweepGrid& grid, const std::string& program)
      : sweep_(sweep),
        grid_(grid),
        owner_(OwnerName()),
        book_(owner_, sweep.run.lease_seconds),
        at_once_(sweep.run.side_by_side),
        of_groups_{sweep,
                   grid,
                   program,
                   owner_,
                   [this] { return StopAsked(); },
                   [this](const std::string& text) { Say(text); }} {}

  absl::StatusOr<WorkerResult> Run() {
    RETURN_IF_ERROR(KeepSettings(sweep_));
    for (const SweepCell& cell : grid_.cells) {
      std::error_code error;
      fs::create_directories(FolderOf(sweep_, cell).dir, error);
      if (error) return FileError(FolderOf(sweep_, cell).dir, "make the folder", error.value());
      // What is no record would end every worker after its first cell.
      RETURN_IF_ERROR(CheckFinished(sweep_, cell));
    }
    InstallSignalHandlers();
    while (!stop_) {
      ASSIGN_OR_RETURN(const bool ran, RunFree());
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

  bool IsOpen(const CellState& state) const { return !state.done && !HasFailed(sweep_, state); }

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
    if (signals_.Take().stop) stop_ = true;
    return stop_;
  }

  // How many cells to take: those that are free are divided among the workers that are seen at
  // work, so that the last ones do not all go to one of them.
  int64_t Share() {
    int64_t free = 0;
    std::set<std::string> workers = {owner_};
    for (const SweepCell& cell : grid_.cells) {
      const CellState state = StateOf(sweep_, cell);
      if (!IsOpen(state)) continue;
      const bool is_free = book_.IsFree(FolderOf(sweep_, cell).dir, state.lease);
      free += is_free;
      if (!is_free) workers.insert(state.lease.owner());
    }
    const auto each =
        (free + static_cast<int64_t>(workers.size()) - 1) / static_cast<int64_t>(workers.size());
    return std::clamp<int64_t>(each, 1, at_once_);
  }

  // Cells that are free, the first ones, as many as are run side by side.
  absl::StatusOr<std::vector<TakenCell>> TakeFree() {
    std::vector<TakenCell> taken;
    const double pace = SlowestStep();
    const int64_t most = at_once_ == 1 ? 1 : Share();
    for (const SweepCell& cell : grid_.cells) {
      if (StopAsked() || static_cast<int64_t>(taken.size()) == most) break;
      const CellState seen = StateOf(sweep_, cell);
      if (!IsOpen(seen) || !EndsInTime(seen, pace)) continue;
      const CellFolder folder = FolderOf(sweep_, cell);
      const bool alone = IsThere(folder.alone());
      if (alone && !taken.empty()) continue;
      ASSIGN_OR_RETURN(std::optional<Lease> lease, book_.Take(folder.dir));
      if (!lease.has_value()) continue;
      // It may have been finished between the look and the lease.
      const CellState state = StateOf(sweep_, cell);
      if (!IsOpen(state)) {
        lease->Release();
        continue;
      }
      taken.push_back({&cell, state, *std::move(lease)});
      if (alone) break;
    }
    return taken;
  }

  // Takes and runs what is free; false where nothing is.
  absl::StatusOr<bool> RunFree() {
    ASSIGN_OR_RETURN(std::vector<TakenCell> taken, TakeFree());
    if (stop_) {
      for (TakenCell& cell : taken) cell.lease.Release();
      return true;
    }
    if (taken.empty()) return false;
    CellGroup group(of_groups_, std::move(taken));
    RETURN_IF_ERROR(group.Run());
    ran_ += group.ran();
    if (group.no_room() == 0) return true;
    at_once_ = std::max<int64_t>(1, group.size() - group.no_room());
    Say("from now on " + std::to_string(at_once_) + " cells side by side instead of " +
        std::to_string(group.size()) + ": " + group.no_room_text());
    return true;
  }

  absl::StatusOr<WorkerResult> Count() {
    WorkerResult result;
    for (const SweepCell& cell : grid_.cells) {
      const CellState state = StateOf(sweep_, cell);
      result.done += state.done;
      result.failed += HasFailed(sweep_, state);
    }
    result.ran = ran_;
    RETURN_IF_ERROR(WriteResults(sweep_, grid_).status());
    const bool early = Open() > 0;  // told to stop, out of time, or not to wait
    result.exit_code = stop_ || early ? 75 : result.failed > 0 ? 1 : 0;
    return result;
  }

  const SweepConfig& sweep_;
  const SweepGrid& grid_;
  const std::string owner_;
  LeaseBook book_;
  int64_t at_once_;  // cells that one process trains
  const GroupWorker of_groups_;
  const Clock::time_point begin_ = Clock::now();
  int64_t ran_ = 0;
  SignalReader signals_;
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
