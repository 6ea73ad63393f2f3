// The verbs: one line each. Results go to stdout (rank 0), logs to stderr. An error comes back as
// the same status on every rank; the int is the exit code of what ended otherwise.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "launch/arguments.h"
#include "parallel/world.h"

namespace mneme {

absl::StatusOr<int> TrainVerb(World& world, const TrainArguments& arguments);
absl::StatusOr<int> EvaluateVerb(World& world, const EvaluateArguments& arguments);
absl::StatusOr<int> GenerateVerb(World& world, const GenerateArguments& arguments);
absl::StatusOr<int> AnalyzeVerb(World& world, const AnalyzeArguments& arguments);

// Verbs of one process; under mpirun only the first rank runs them.
absl::StatusOr<int> ReportVerb(const ReportArguments& arguments);
absl::StatusOr<int> PlanVerb(const PlanArguments& arguments);
absl::StatusOr<int> SweepVerb(const SweepArguments& arguments);
absl::StatusOr<int> PrepareVerb(const PrepareArguments& arguments);
absl::StatusOr<int> InspectVerb(const InspectArguments& arguments);
absl::StatusOr<int> ConvertVerb(const ConvertArguments& arguments);
absl::StatusOr<int> ConfigVerb(const ConfigArguments& arguments);

// "mneme 0.1.0 (commit ...)", compiler and libraries, a line each.
std::string VersionText();

}  // namespace mneme
