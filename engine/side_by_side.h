// Several runs in one process, each a world of one rank on a thread of its own, whose steps compute
// beside each other: on CPUs, and on one GPU as many as its memory holds (device_room.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "configs/run.h"

namespace mneme {

// How one of several runs ended. JSON: an object on one line with these keys.
struct RunEnd {
  std::string config;    // as it was named
  int exit_code = 0;     // as of a process that trains this run alone; 75 where it had no room
  bool no_room = false;  // the runs before it leave too little of the device; nothing was done
  std::string message;
};
std::string RunEndJson(const RunEnd& end);

// Of all together: 0 where all are done; else that of the first run that failed, 75 where none
// did.
int ExitCodeOf(const std::vector<RunEnd>& ends);

struct NamedRun {
  std::string config;  // its file
  RunConfig run;
};

struct SideBySideHooks {
  // Called as each ends, by one thread at a time.
  std::function<void(const RunEnd&)> on_end;
  std::optional<int64_t> memory;  // free bytes of the device, for tests
};

// Trains each run as a process of its own would: same bits, its own folder, log (run.log, else
// standard error behind the name of its config), checkpoints and end. All answer the signals of
// the process. The device is dealt in their order (device_room.h): one for which those before it
// leave no room is not begun. What ends the process (Fatal, a signal) ends all. Returns the ends in
// the order of `runs`.
std::vector<RunEnd> TrainSideBySide(const std::vector<NamedRun>& runs,
                                    const SideBySideHooks& hooks = {});

}  // namespace mneme
