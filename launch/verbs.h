// The verbs: one line each. Results go to stdout (rank 0), logs to stderr. An error comes back as
// the same status on every rank; the int is the exit code of what ended otherwise.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "launch/arguments.h"
#include "parallel/world.h"

namespace mneme {

// Verbs of all ranks: collective.
//
// Trains one run on all ranks, or several side by side on one; with dry_run it only tells. The exit
// code is that of the run: 0, 4 (diverged), 75 (stopped with a checkpoint), of several ExitCodeOf.
absl::StatusOr<int> TrainVerb(World& world, const TrainArguments& arguments);
// Scores held-out sets, a line each; InvalidArgument where there is none.
absl::StatusOr<int> EvaluateVerb(World& world, const EvaluateArguments& arguments);
// Goes on from a prompt; prints as ids are drawn, unless gates or JSON are asked for.
absl::StatusOr<int> GenerateVerb(World& world, const GenerateArguments& arguments);
// Where the gates of a memory open; InvalidArgument for a model without one.
absl::StatusOr<int> AnalyzeVerb(World& world, const AnalyzeArguments& arguments);

// Verbs of one process; under mpirun only the first rank runs them, but for a sweep that runs
// cells: there every rank is a worker. All return 0 but SweepVerb, which has WorkerResult's code
// where it worked.
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
