// mneme train CONFIG [key=value]...
#include <cstdio>

#include "engine/trainer.h"
#include "kernels/core/check.h"
#include "launch/describe.h"
#include "launch/load_run.h"
#include "launch/verbs.h"

namespace mneme {

absl::StatusOr<int> TrainVerb(World& world, const TrainArguments& arguments) {
  const int ranks = arguments.world_size > 0 ? arguments.world_size : world.size();
  ASSIGN_OR_RETURN(const RunConfig config, LoadRun(world, arguments.run, ranks));
  if (arguments.dry_run) {
    std::string text;
    const auto describe = [&]() -> absl::Status {
      ASSIGN_OR_RETURN(text, DescribeRun(config, ranks, arguments.json));
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(world.Agree(world.rank() == 0 ? describe() : absl::OkStatus()));
    if (world.rank() == 0) std::printf("%s", text.c_str());
    return 0;
  }
  ASSIGN_OR_RETURN(const TrainResult result, Train(world, config));
  if (world.rank() != 0) return result.exit_code;
  if (!result.message.empty()) std::fprintf(stderr, "%s\n", result.message.c_str());
  if (arguments.json) std::printf("%s\n", ResultJson(config, result).c_str());
  return result.exit_code;
}

}  // namespace mneme
