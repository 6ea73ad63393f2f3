// A forecast for people, and for programs.
#pragma once

#include <string>

#include "configs/run.h"
#include "engine/forecast/forecast.h"

namespace mneme {

std::string PlanText(const RunConfig& config, const Forecast& forecast);
// One object: parameters, flops, bytes_per_rank, stages, checkpoint, breaks, mend, warnings, hours.
std::string PlanJson(const Forecast& forecast);

}  // namespace mneme
