#include "engine/sweep/cell_group.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "configs/json_text.h"
#include "configs/load.h"
#include "configs/text.h"
#include "data/files.h"
#include "engine/run_folder.h"
#include "engine/sweep/cells.h"
#include "engine/sweep/shared_files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr int kRefused = 2;  // exit code of a config that cannot be meant: it will not change

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

}  // namespace

std::string NameOf(const SweepCell& cell) {
  std::vector<std::string> axes;
  for (const auto& [name, value] : cell.axes) axes.push_back(name + "=" + value);
  return cell.key + " (" + Join(axes, " ") + ")";
}

CellGroup::CellGroup(const GroupWorker& worker, std::vector<TakenCell> cells)
    : worker_(worker), sweep_(worker.sweep), begin_(Clock::now()) {
  for (TakenCell& taken : cells) {
    const CellFolder folder = FolderOf(sweep_, *taken.cell);
    members_.push_back({std::move(taken), folder, std::nullopt});
  }
}

absl::Status CellGroup::Run() {
  RETURN_IF_ERROR(Prepare());
  if (members_.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(CellProcess process, Start());
  RETURN_IF_ERROR(Watch(process));
  // What a process of several has written is of use only where it did not tell of all.
  std::error_code ignored;
  if (several_ && std::all_of(members_.begin(), members_.end(), [](const Member& member) {
        return !IsThere(member.folder.alone());
      })) {
    fs::remove_all(folder_, ignored);
    fs::remove(fs::path(folder_).parent_path(), ignored);  // once it is empty
  }
  return absl::OkStatus();
}

// Configs of those that nobody writes; the others are given back.
absl::Status CellGroup::Prepare() {
  for (auto member = members_.begin(); member != members_.end();) {
    ASSIGN_OR_RETURN(const bool still_written, StillWritten(member->folder));
    if (!still_written) {
      ++member;
      continue;
    }
    member->taken.lease.Release();
    member = members_.erase(member);
  }
  several_ = members_.size() > 1;
  for (Member& member : members_) {
    RunConfig config = member.taken.cell->config;
    config.run.dir = member.folder.run();
    if (several_) config.run.log = member.folder.log();
    RETURN_IF_ERROR(ReplaceFile(member.folder.config(), DumpConfig(config)));
    worker_.say((member.taken.lease.generation() > 1 ? "goes on with " : "begins ") +
                NameOf(*member.taken.cell));
  }
  return absl::OkStatus();
}

// A worker that was only thought dead may have left a process that has not ended yet. What can
// never be locked is an error: the cell would be taken and given back for ever.
absl::StatusOr<bool> CellGroup::StillWritten(const CellFolder& folder) {
  if (!IsThere(folder.run())) return false;
  const absl::Status lock = FolderLock::Take(folder.run()).status();
  if (lock.ok()) return false;
  if (!absl::IsUnavailable(lock)) return lock;
  worker_.say(std::string(lock.message()));
  return true;
}

// {rho} and {seed} are those of one cell: a launch line of several has neither.
std::string CellGroup::LaunchLine() const {
  const SweepCell& cell = *members_.front().taken.cell;
  std::vector<std::string> configs;
  for (const Member& member : members_) configs.push_back(ShellQuoted(member.folder.config()));
  return FillLaunchLine(sweep_.run.launch, {{"program", ShellQuoted(worker_.program)},
                                            {"config", Join(configs, " ")},
                                            {"rho", cell.rho ? NumberText(*cell.rho) : "none"},
                                            {"seed", std::to_string(cell.seed)},
                                            {"gpu", Gpu()},
                                            {"local_rank", LocalRank()}});
}

absl::StatusOr<CellProcess> CellGroup::Start() {
  for (Member& member : members_) member.watch.emplace(member.folder, sweep_.run.idle_seconds);
  if (!several_) {
    const std::string log = members_.front().folder.log();
    return CellProcess::Start(LaunchLine(), log, log);
  }
  folder_ = sweep_.folder + "/side_by_side/" + worker_.owner + "." +
            std::to_string(std::random_device()());
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return FileError(folder_, "make the folder", error.value());
  return CellProcess::Start(LaunchLine(), folder_ + "/ends.jsonl", folder_ + "/log.txt");
}

// Heartbeats while they run; stops them when the worker is told to, and ends them where one hangs
// or is lost to another worker.
absl::Status CellGroup::Watch(CellProcess& process) {
  const auto beat = std::chrono::duration<double>(sweep_.run.lease_seconds / 5.0);
  auto next = Clock::now() + beat;
  while (true) {
    const std::optional<CellExit> exit = process.Poll();
    if (several_) RETURN_IF_ERROR(TakeEnds());
    if (exit.has_value()) return EndRest(*exit);
    std::this_thread::sleep_for(kPoll);
    if (worker_.stop_asked() && !std::exchange(told_, true)) process.Signal(SIGTERM);
    TellHanging(process);
    if (Clock::now() < next) continue;
    next = Clock::now() + beat;
    if (Beat()) continue;
    process.Kill();
    return LoseRest();
  }
}

// SIGTERM once, whoever hangs: a second one would leave the others no time to save.
void CellGroup::TellHanging(CellProcess& process) {
  for (Member& member : members_) {
    if (member.ended) continue;
    const int signal = member.watch->Signal();
    if (signal == SIGKILL || (signal != 0 && !std::exchange(told_, true))) process.Signal(signal);
  }
}

// False where a cell was lost to another worker.
bool CellGroup::Beat() {
  bool held = true;
  for (Member& member : members_) held = (member.ended || member.taken.lease.Beat()) && held;
  return held;
}

// What the process has told since the last look, whole lines alone.
absl::Status CellGroup::TakeEnds() {
  const std::string text = ReadFileBytes(folder_ + "/ends.jsonl").value_or("");
  for (size_t at = text.find('\n', ends_read_); at != std::string::npos;
       at = text.find('\n', ends_read_)) {
    std::map<std::string, std::string> end = ScalarsOf(text.substr(ends_read_, at - ends_read_));
    ends_read_ = at + 1;
    const auto member = std::find_if(members_.begin(), members_.end(), [&](const Member& m) {
      return !m.ended && m.folder.config() == end["config"];
    });
    if (member == members_.end()) continue;
    if (end["no_room"] == "true") {
      ++no_room_;
      no_room_text_ = end["message"];
      RETURN_IF_ERROR(End(*member, absl::OkStatus()));
      continue;
    }
    const auto code =
        static_cast<int>(std::clamp<int64_t>(ParseInteger(end["exit_code"]).value_or(1), 0, 255));
    RETURN_IF_ERROR(End(*member, Judge(*member, {code, "exit code " + std::to_string(code)})));
  }
  return absl::OkStatus();
}

// The process is gone: what becomes of those that it has not told of.
absl::Status CellGroup::EndRest(const CellExit& exit) {
  for (Member& member : members_) {
    if (member.ended) continue;
    if (!several_ || member.watch->hung() || told_ || worker_.stop_asked()) {
      RETURN_IF_ERROR(End(member, Judge(member, exit)));
      continue;
    }
    const std::string why = "ended with the cells beside it: " + exit.text +
                            "; its process's last line: " + LastLine(folder_ + "/log.txt");
    worker_.say(NameOf(*member.taken.cell) + " " + why + "; it is run alone from now on (" +
                folder_ + ")");
    RETURN_IF_ERROR(End(member, MarkAlone(member, why)));
  }
  return absl::OkStatus();
}

absl::Status CellGroup::LoseRest() {
  for (Member& member : members_) {
    if (member.ended) continue;
    const bool lost = !member.taken.lease.Beat();
    worker_.say((lost ? "lost " : "stopped ") + NameOf(*member.taken.cell) +
                (lost ? " to another worker" : " with what it had saved"));
    member.ended = true;
    if (!lost) member.taken.lease.Release();
  }
  return absl::OkStatus();
}

absl::Status CellGroup::Judge(Member& member, const CellExit& exit) {
  const std::string name = NameOf(*member.taken.cell);
  const bool stopping = told_ || worker_.stop_asked();
  const std::string last = "; its last line: " + LastLine(member.folder.log());
  ++ran_;
  if (member.watch->hung() && exit.code != 0) {
    const std::string why =
        "no progress for " + NumberText(sweep_.run.idle_seconds) + " s (run.idle_seconds), ended";
    if (several_) RETURN_IF_ERROR(MarkAlone(member, why));
    return Fail(member, why + last, exit);
  }
  if (exit.code == 75 && !stopping &&
      StateOf(sweep_, *member.taken.cell).step <= member.taken.before.step) {
    return Fail(member, "stopped by itself (" + exit.text + ") without a step" + last, exit);
  }
  if (exit.code == 75 || (stopping && exit.code != 0)) {
    worker_.say("stopped " + name + " with what it had saved");
    return absl::OkStatus();
  }
  if (exit.code != 0)
    return Fail(member, exit.text + last, exit, /*hopeless=*/exit.code == kRefused);
  if (const absl::Status kept = KeepDocuments(sweep_, *member.taken.cell); !kept.ok())
    return Fail(member, std::string(kept.message()), exit);
  const absl::Status own = CheckTrained(sweep_, *member.taken.cell);
  if (absl::IsFailedPrecondition(own)) return RefuseRun(member, std::string(own.message()), exit);
  if (!own.ok()) return Fail(member, std::string(own.message()), exit);
  const absl::Status finished = Finish(member);
  if (!finished.ok()) return Fail(member, std::string(finished.message()), exit);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  worker_.say("finished " + name + " in " + NumberText(std::round(seconds)) + " s");
  return absl::OkStatus();
}

// What trained something else would do so again; its run is set aside, so that the cell does not go
// on from it once the launch line is mended.
absl::Status CellGroup::RefuseRun(Member& member, const std::string& why, const CellExit& exit) {
  const std::string run = member.folder.run();
  const std::string aside = run + ".other." + std::to_string(member.taken.before.failures + 1);
  std::error_code error;
  fs::rename(run, aside, error);
  if (error) return FileError(run, "set aside", error.value());
  return Fail(member, why + " (now " + aside + ")", exit, /*hopeless=*/true);
}

absl::Status CellGroup::Finish(Member& member) {
  const SweepCell& cell = *member.taken.cell;
  ASSIGN_OR_RETURN(const std::string record,
                   CellRecord(sweep_, cell, member.taken.before.failures));
  RETURN_IF_ERROR(CreateExclusively(member.folder.done(), record + "\n").status());
  std::error_code ignored;
  if (!sweep_.run.keep_checkpoints) fs::remove_all(member.folder.run() + "/checkpoints", ignored);
  return absl::OkStatus();
}

absl::Status CellGroup::Fail(Member& member, const std::string& why, const CellExit& exit,
                             bool hopeless) {
  const int64_t attempt = member.taken.before.failures + 1;
  JsonObject json;
  json.Add("why", why)
      .Add("code", exit.code)
      .Add("owner", worker_.owner)
      .Add("log", member.folder.log());
  if (hopeless) json.Add("hopeless_of", sweep_.run.attempts);
  RETURN_IF_ERROR(CreateExclusively(member.folder.failed(attempt), json.Text() + "\n").status());
  worker_.say(NameOf(*member.taken.cell) + " failed, attempt " + std::to_string(attempt) + " of " +
              std::to_string(sweep_.run.attempts) + (hopeless ? ", the last" : "") + ": " + why +
              " (" + member.folder.log() + ")");
  return absl::OkStatus();
}

absl::Status CellGroup::MarkAlone(const Member& member, const std::string& why) const {
  return CreateExclusively(member.folder.alone(), why + "\n").status();
}

// Its end is known: the cell is free for others, and in the results where it is done.
absl::Status CellGroup::End(Member& member, const absl::Status& status) {
  member.ended = true;
  member.taken.lease.Release();
  RETURN_IF_ERROR(status);
  return WriteResults(sweep_, worker_.grid).status();
}

}  // namespace mneme
