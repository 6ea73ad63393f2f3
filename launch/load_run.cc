#include "launch/load_run.h"

#include "configs/load.h"
#include "kernels/core/check.h"
#include "kernels/core/driver.h"

namespace mneme {

absl::StatusOr<RunConfig> LoadRunAlone(const RunArguments& arguments, int ranks) {
  absl::StatusOr<RunConfig> config = LoadConfig(arguments.config, arguments.overrides, ranks);
  if (!config.ok()) return absl::InvalidArgumentError(config.status().message());
  if (config->device != "auto" && config->device != "cpu" && GpuDriver() == nullptr) {
    return absl::InvalidArgumentError(
        "device: " + config->device +
        " is asked for, but this program was built for CPUs; device=auto or device=cpu");
  }
  return config;
}

absl::StatusOr<RunConfig> LoadRun(World& world, const RunArguments& arguments, int ranks) {
  absl::StatusOr<RunConfig> config = RunConfig();
  if (world.rank() == 0) config = LoadRunAlone(arguments, ranks);
  RETURN_IF_ERROR(world.Agree(config.status()));
  const std::string text = world.Broadcast(world.rank() == 0 ? DumpConfig(*config) : "");
  return world.rank() == 0 ? config : ParseConfig(text, arguments.config);
}

}  // namespace mneme
