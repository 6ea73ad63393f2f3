#include "configs/stages.h"

#include <map>

#include "configs/flatten.h"

namespace mneme {

StageConfig InheritedStage(const RunConfig& config, const StageConfig* previous) {
  StageConfig stage;
  stage.data = config.data;
  stage.schedule = config.optim.schedule;
  if (previous != nullptr) stage.yarn = previous->yarn;
  return stage;
}

std::string CompleteStage(const RunConfig& config, StageConfig& stage) {
  if (stage.sequence_length == 0) stage.sequence_length = config.train.sequence_length;
  if (stage.batch_sequences == 0) stage.batch_sequences = config.train.batch_sequences;
  if (stage.lr == 0.0) stage.lr = config.optim.lr;
  if (stage.tokens == 0) {
    if (stage.steps == 0) stage.steps = config.train.steps;
    return "";
  }
  if (stage.tokens < 0) return "is " + std::to_string(stage.tokens) + "; must be at least 0";
  // Lengths that are no lengths are complained of by the rules.
  if (stage.sequence_length < 1 || stage.batch_sequences < 1) return "";
  const __int128 per_step = static_cast<__int128>(stage.sequence_length) * stage.batch_sequences;
  const auto steps = static_cast<int64_t>((stage.tokens + per_step - 1) / per_step);
  if (stage.steps != 0 && stage.steps != steps) {
    return std::to_string(stage.tokens) + " tokens are " + std::to_string(steps) + " steps of " +
           std::to_string(stage.batch_sequences) + " x " + std::to_string(stage.sequence_length) +
           ", but steps says " + std::to_string(stage.steps) + "; state one of the two";
  }
  stage.steps = steps;
  stage.tokens = 0;
  return "";
}

int64_t StageSteps(const StageConfig& stage) {
  if (stage.steps > 0) return stage.steps;
  const int64_t update = stage.batch_sequences * stage.sequence_length;
  return update > 0 ? (stage.tokens + update - 1) / update : 0;
}

int64_t TotalSteps(const RunConfig& config) {
  int64_t steps = 0;
  for (const StageConfig& stage : config.stages) steps += StageSteps(stage);
  return steps;
}

bool IsSingleDerivedStage(const RunConfig& config) {
  if (config.stages.size() != 1) return config.stages.empty();
  StageConfig derived = InheritedStage(config, nullptr);
  CompleteStage(config, derived);
  StageConfig stage = config.stages[0];
  return Flatten(Reflector::Of(derived), "") == Flatten(Reflector::Of(stage), "");
}

}  // namespace mneme
