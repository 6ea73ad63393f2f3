// mneme train CONFIG... [key=value]...
#include <algorithm>
#include <cstdio>

#include "engine/run_log.h"
#include "engine/side_by_side.h"
#include "engine/trainer.h"
#include "kernels/core/check.h"
#include "launch/describe.h"
#include "launch/load_run.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

absl::StatusOr<int> DryRun(World& world, const TrainArguments& arguments, int ranks) {
  for (const RunArguments& run : arguments.runs) {
    ASSIGN_OR_RETURN(const RunConfig config, LoadRun(world, run, ranks));
    std::string text;
    const auto describe = [&]() -> absl::Status {
      ASSIGN_OR_RETURN(text, DescribeRun(config, ranks, arguments.json));
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(world.Agree(world.rank() == 0 ? describe() : absl::OkStatus()));
    if (world.rank() == 0) std::printf("%s", text.c_str());
  }
  return 0;
}

absl::StatusOr<int> TrainOne(World& world, const TrainArguments& arguments) {
  ASSIGN_OR_RETURN(const RunConfig config, LoadRun(world, arguments.runs.front(), world.size()));
  absl::StatusOr<RunLog> log = RunLog::Open(world.rank() == 0 ? config.run.log : "");
  RETURN_IF_ERROR(world.Agree(log.status()));
  TrainHooks hooks;
  hooks.say = [&](const std::string& text) { log->Say(text); };
  const absl::StatusOr<TrainResult> result = Train(world, config, hooks);
  if (!result.ok()) {
    if (log->is_file()) log->Say("mneme: " + std::string(result.status().message()));
    return result.status();
  }
  if (world.rank() != 0) return result->exit_code;
  if (!result->message.empty()) log->Say(result->message);
  if (arguments.json) std::printf("%s\n", ResultJson(config, *result).c_str());
  return result->exit_code;
}

void Tell(const RunEnd& end) {
  std::printf("%s\n", RunEndJson(end).c_str());
  std::fflush(stdout);
}

// A config that cannot be read ends its own run alone.
absl::StatusOr<int> TrainSeveral(World& world, const TrainArguments& arguments) {
  if (world.size() > 1) {
    return absl::InvalidArgumentError(
        "several configs are trained side by side on one rank each, and " +
        std::to_string(world.size()) + " ranks were started; start without mpirun");
  }
  std::vector<NamedRun> runs;
  std::vector<RunEnd> ends;
  for (const RunArguments& run : arguments.runs) {
    const absl::StatusOr<RunConfig> config = LoadRunAlone(run, 1);
    if (config.ok()) {
      runs.push_back({run.config, *config});
      continue;
    }
    const std::string message(config.status().message());
    ends.push_back({run.config, ExitCode(config.status()), false, message});
    std::fprintf(stderr, "mneme: %s\n", message.c_str());
    Tell(ends.back());
  }
  SideBySideHooks hooks;
  hooks.on_end = Tell;
  const std::vector<RunEnd> trained = TrainSideBySide(runs, hooks);
  ends.insert(ends.end(), trained.begin(), trained.end());
  return ExitCodeOf(ends);
}

}  // namespace

absl::StatusOr<int> TrainVerb(World& world, const TrainArguments& arguments) {
  const int ranks = arguments.world_size > 0 ? arguments.world_size : world.size();
  if (arguments.dry_run) return DryRun(world, arguments, ranks);
  return arguments.runs.size() == 1 ? TrainOne(world, arguments) : TrainSeveral(world, arguments);
}

}  // namespace mneme
