// mneme.json beside exported weights: what config.json has no words for, so that an import gives
// the same run back.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/checkpoint/checkpoint.h"

namespace mneme {

inline constexpr char kExportedRunName[] = "mneme.json";

// The whole config, and of the position step, stage and tokens.
std::string DumpExportedRun(const RunConfig& config, const RunPosition& position);
// Assigns the config, and those three of the position. Errors: InvalidArgument (the config),
// DataLoss (no whole file of this version) naming `path`; NotFound.
absl::Status ReadExportedRun(const std::string& path, RunConfig& config, RunPosition& position);

}  // namespace mneme
