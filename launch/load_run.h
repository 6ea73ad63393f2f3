// A config read once and known everywhere.
#pragma once

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "launch/arguments.h"
#include "parallel/world.h"

namespace mneme {

// Rank 0 reads and judges for `ranks` ranks (0: rules of a run that is about to start are left
// out); all ranks get the same value or the same error. A missing file is a usage error
// (InvalidArgument).
absl::StatusOr<RunConfig> LoadRun(World& world, const RunArguments& arguments, int ranks);
// The same for one process.
absl::StatusOr<RunConfig> LoadRunAlone(const RunArguments& arguments, int ranks);

}  // namespace mneme
