// A run in words and numbers, before it is run.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/trainer.h"

namespace mneme {

// The resolved config as YAML, with the parameter counts as comments below it.
std::string ResolvedYaml(const RunConfig& config);
// {"paper": {...}, "plain": {...}, "flops_per_token": ..., "config": {...}} on several lines.
std::string ResolvedJson(const RunConfig& config);

// What `train` would do on so many ranks: parameters, memory, batch arithmetic, layout, files.
// Errors: a layout that cannot be made.
absl::StatusOr<std::string> DescribeRun(const RunConfig& config, int ranks, bool json);

// How a run ended: its result.json, or exit code and message where it ended early.
std::string ResultJson(const RunConfig& config, const TrainResult& result);

}  // namespace mneme
