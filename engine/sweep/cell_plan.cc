#include "engine/sweep/cell_plan.h"

#include <map>

#include "configs/device_rates.h"
#include "configs/load.h"
#include "engine/forecast/forecast.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// The config without what no plan depends on.
std::string PlannedText(RunConfig config) {
  config.train.seed = config.data.seed = config.model.engram.hash_seed = 0;
  for (StageConfig& stage : config.stages) stage.data.seed = 0;
  return DumpConfig(config);
}

CellPlan PlanOf(const RunConfig& config, const ForecastOptions& options) {
  CellPlan plan;
  const absl::StatusOr<Forecast> forecast = MakeForecast(config, options);
  if (!forecast.ok()) {
    plan.fault = std::string(forecast.status().message());
    return plan;
  }
  plan.hours = forecast->seconds / 3600.0;
  plan.breaks = forecast->breaks;
  return plan;
}

}  // namespace

absl::StatusOr<std::vector<CellPlan>> PlanCells(const SweepConfig& sweep, const SweepGrid& grid) {
  ForecastOptions options;
  ASSIGN_OR_RETURN(options.device, LoadDeviceRates(sweep.run.device));
  options.ranks = static_cast<int>(sweep.run.ranks);
  options.mend = false;
  std::map<std::string, CellPlan> known;
  std::vector<CellPlan> plans;
  for (const SweepCell& cell : grid.cells) {
    const auto [at, fresh] = known.try_emplace(PlannedText(cell.config));
    if (fresh) at->second = PlanOf(cell.config, options);
    plans.push_back(at->second);
  }
  return plans;
}

}  // namespace mneme
