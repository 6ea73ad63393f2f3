// The training loop and everything around a step.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/machine/device_room.h"
#include "engine/report/report.h"
#include "parallel/world.h"

namespace mneme {

// How a run ended.
struct TrainResult {
  int exit_code = 0;  // 0 done; 4 diverged; 75 stopped early with a checkpoint
  std::string message;
};

// For tests and tools that drive a run from inside.
struct TrainHooks {
  int64_t stop_at_step = -1;                       // saves there and ends with 75, as SIGTERM does
  std::function<void(const StepReport&)> on_step;  // rank 0, after each step
  // Rank 0: what the run says, one line or several; standard error where it is empty.
  std::function<void(const std::string&)> say;
  // Where runs of one process share a device, what they share, and which of them this is; else
  // null. The caller leaves the room when Train has returned.
  DeviceRoom* room = nullptr;
  int number = 0;
};

// The whole run: opens data, builds model and optimizer, resumes or begins in run.dir, trains every
// stage, evaluates, writes result.json. Collective; errors are agreed over ranks. Exit code of an
// error: ExitCode(status).
absl::StatusOr<TrainResult> Train(World& world, const RunConfig& config,
                                  const TrainHooks& hooks = {});

// 0 of OK; 2 usage or config (InvalidArgument, FailedPrecondition); 3 data or checkpoint missing or
// unreadable (NotFound, DataLoss); 1 otherwise. Who takes a path that was typed turns a NotFound of
// it into an InvalidArgument.
int ExitCode(const absl::Status& status);

}  // namespace mneme
