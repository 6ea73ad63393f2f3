// What a stage takes from the sections of its run.
#pragma once

#include <cstdint>
#include <string>

#include "configs/run.h"

namespace mneme {

// A stage that states nothing: data and schedule of the run, rotary scaling of the stage before
// (null: none).
StageConfig InheritedStage(const RunConfig& config, const StageConfig* previous);

// Fills steps, sequence length, batch and rate where they are 0, and turns `tokens` into steps
// (rounded up; `tokens` is then 0). Returns what is wrong, or nothing.
std::string CompleteStage(const RunConfig& config, StageConfig& stage);

// What it states, or its tokens over the tokens of one update, rounded up.
int64_t StageSteps(const StageConfig& stage);
int64_t TotalSteps(const RunConfig& config);

// Whether the run is what a file without `stages:` describes.
bool IsSingleDerivedStage(const RunConfig& config);

}  // namespace mneme
