// mneme plan CONFIG [key=value]...: what a run will take, before it is run.
#include <cstdio>

#include "configs/load.h"
#include "engine/forecast/forecast.h"
#include "kernels/core/check.h"
#include "launch/plan_text.h"
#include "launch/verbs.h"

namespace mneme {

absl::StatusOr<int> PlanVerb(const PlanArguments& arguments) {
  // Neither data nor a GPU need be here, so only what the config itself says is judged.
  absl::StatusOr<RunConfig> config =
      LoadConfig(arguments.run.config, arguments.run.overrides, /*world=*/0);
  if (!config.ok()) return absl::InvalidArgumentError(config.status().message());
  ForecastOptions options;
  options.ranks = arguments.ranks;
  options.threads = arguments.threads;
  ASSIGN_OR_RETURN(options.device, LoadDeviceRates(arguments.device));
  if (arguments.price > 0.0) options.device.price = arguments.price;
  ASSIGN_OR_RETURN(const Forecast forecast, MakeForecast(*config, options));
  const std::string text = arguments.json ? PlanJson(forecast) : PlanText(*config, forecast);
  std::printf("%s", text.c_str());
  return 0;
}

}  // namespace mneme
