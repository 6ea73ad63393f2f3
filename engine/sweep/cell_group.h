// Cells that one process trains, from its start to what became of each: one cell, or several side
// by side (engine/side_by_side.h).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sweep/cell_process.h"
#include "engine/sweep/hang_watch.h"
#include "engine/sweep/lease.h"
#include "engine/sweep/sweep_folder.h"

namespace mneme {

// What a group needs of the worker that runs it.
struct GroupWorker {
  const SweepConfig& sweep;
  const SweepGrid& grid;
  std::string program;                          // {program} of the launch line
  std::string owner;                            // names this worker among all (LeaseBook)
  std::function<bool()> stop_asked;             // once true, cells save and end
  std::function<void(const std::string&)> say;  // a line for people
};

// A cell that the worker holds.
struct TakenCell {
  const SweepCell* cell;  // of the grid
  CellState before;       // where it stood when it was taken
  Lease lease;
};

// "key (rho=0.8 seed=0)".
std::string NameOf(const SweepCell& cell);

// Of several, each ends by itself: what the process tells of it on standard output (RunEnd) is
// judged as the end of a process of its own would be. Where the process ends without having told,
// those that it trained have failed together: none is blamed, and each is marked to be run alone
// from now on, so that one of them cannot take the others with it twice.
class CellGroup {
 public:
  // `cells`: one at least. The worker is borrowed.
  CellGroup(const GroupWorker& worker, std::vector<TakenCell> cells);

  // Until all have ended; holds their leases meanwhile and gives each back as its cell ends.
  // Errors: files of the sweep's folder.
  absl::Status Run();
  int64_t size() const { return static_cast<int64_t>(members_.size()); }  // that were begun
  int64_t ran() const { return ran_; }                                    // seen to an end
  // Cells that the device had no room for beside the others, and why; they are free again.
  int64_t no_room() const { return no_room_; }
  const std::string& no_room_text() const { return no_room_text_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Member {
    TakenCell taken;
    CellFolder folder;
    std::optional<HangWatch> watch;  // once the process runs
    bool ended = false;              // judged, lost or free again; its lease is given back
  };

  absl::Status Prepare();
  absl::StatusOr<bool> StillWritten(const CellFolder& folder);
  std::string LaunchLine() const;
  absl::StatusOr<CellProcess> Start();
  absl::Status Watch(CellProcess& process);
  void TellHanging(CellProcess& process);
  bool Beat();
  absl::Status TakeEnds();
  absl::Status EndRest(const CellExit& exit);
  absl::Status LoseRest();
  absl::Status Judge(Member& member, const CellExit& exit);
  absl::Status Finish(Member& member);
  absl::Status RefuseRun(Member& member, const std::string& why, const CellExit& exit);
  // hopeless: the next attempt would fail likewise, and none is made.
  absl::Status Fail(Member& member, const std::string& why, const CellExit& exit,
                    bool hopeless = false);
  absl::Status MarkAlone(const Member& member, const std::string& why) const;
  absl::Status End(Member& member, const absl::Status& status);

  const GroupWorker& worker_;
  const SweepConfig& sweep_;
  std::vector<Member> members_;
  bool several_ = false;
  std::string folder_;  // of several: what their process writes
  size_t ends_read_ = 0;
  Clock::time_point begin_;
  bool told_ = false;  // to stop
  int64_t ran_ = 0;
  int64_t no_room_ = 0;
  std::string no_room_text_;
};

}  // namespace mneme
