// Whether a cell gets on, seen from outside: by what it writes.
#pragma once

#include <chrono>
#include <string>

#include "engine/sweep/sweep_folder.h"

namespace mneme {

// Looks at a cell's log, its metrics and its checkpoints, those still being written among them. A
// process that is alive and writes none of these for long hangs: in a collective that a lost rank
// never enters, on a device or a file system that no longer answers.
class HangWatch {
 public:
  // seconds: how long nothing may be written; 0: for ever.
  HangWatch(const CellFolder& folder, double seconds);

  // The signal that the cell is due now: SIGTERM once where it hangs, so that it may save what it
  // can, SIGKILL once where it is still there later; else 0. Looks now and then.
  int Signal();
  bool hung() const { return hung_; }

 private:
  using Clock = std::chrono::steady_clock;
  std::string Look() const;

  CellFolder folder_;
  double seconds_;
  std::string seen_;
  Clock::time_point since_, looked_;
  bool hung_ = false;
  bool killed_ = false;
};

}  // namespace mneme
