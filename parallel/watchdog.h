// Ends the whole job when a rank dies or hangs, with one line that says which and where.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "parallel/world.h"

namespace mneme {

// Of a job that a rank has left alone: its exit code where no launcher gives it another.
inline constexpr int kLostRankCode = 5;

struct WatchdogOptions {
  double timeout = 0.0;  // seconds; 0: no watching
  std::string folder;    // seen by all hosts; used where there are several, and made then
  std::string host;      // of this rank; empty: the world's
  // In place of the end of the job, for tests. Called by the watchdog's thread, on the one rank
  // that speaks.
  std::function<void(const std::string& line)> on_end;
};

// A thread beside the rank's own. It beats, watches the pulses of all ranks (watch.h), has what
// libraries found asked (fault_check.h), and wakes at once when a process of its host ends. It asks
// nothing of MPI but to end the job, so it works while the rank waits in MPI or for a GPU. One rank
// of all speaks. What then ends the others is the launcher (MPI_Abort: SIGKILL in the end, which a
// stopped process obeys); this process ends itself after kLeaveSeconds whatever the launcher does.
class Watchdog {
 public:
  static constexpr double kLeaveSeconds = 10.0;
  // Given to the launcher, or to whoever has claimed the end, to end the job in its own way.
  static constexpr double kLauncherSeconds = 5.0;

  // Collective. Shows the world's pulse to the others.
  static std::unique_ptr<Watchdog> Start(World& world, const WatchdogOptions& options);
  virtual ~Watchdog() = default;

  // True for the first of this host that asks, watchdogs included: it says why the job ends. Who
  // fails after that fails because of it, or in the same way.
  virtual bool Claim() = 0;
};

}  // namespace mneme
