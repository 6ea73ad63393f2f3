// mneme.json beside exported weights: what config.json has no words for, so that an import gives
// the same run back.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/checkpoint.h"

namespace mneme {

inline constexpr char kExportedRunName[] = "mneme.json";

std::string DumpExportedRun(const RunConfig& config, const RunPosition& position);
// InvalidArgument or DataLoss naming `path`.
absl::Status ReadExportedRun(const std::string& path, RunConfig& config, RunPosition& position);

}  // namespace mneme
