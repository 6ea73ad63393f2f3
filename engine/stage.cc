#include "engine/stage.h"

#include <utility>

#include "configs/stages.h"
#include "data/files.h"
#include "engine/forecast/footprint.h"
#include "engine/run_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

absl::Status CheckVocabulary(const VocabularyInfo& first, const VocabularyInfo& other,
                             const std::string& where) {
  if (first.digest == other.digest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      where + ": its vocabulary (" + std::to_string(other.size) + " ids, " + other.tokenizer +
      ") is not the one of the training data (" + std::to_string(first.size) + " ids, " +
      first.tokenizer + "): prepare both with the same tokenizer");
}

absl::StatusOr<Stage> OpenStage(const RunConfig& run, const StageConfig& config, int world,
                                const Device& device) {
  Stage stage;
  stage.config = config;
  stage.steps = StageSteps(config);
  stage.peak_rate = config.lr > 0.0 ? config.lr : run.optim.lr;
  ASSIGN_OR_RETURN(stage.plan,
                   PlanBatch(config.batch_sequences,
                             WantedMicroBatch(run.train, config.sequence_length, device), world));
  ASSIGN_OR_RETURN(stage.loader, Loader::Open(config.data, config.sequence_length));
  stage.set_configs = run.evaluate.sets;
  for (const HeldOutConfig& set : stage.set_configs) {
    ASSIGN_OR_RETURN(
        std::unique_ptr<HeldOut> opened,
        HeldOut::Open(set, config.data.doc_boundary, config.sequence_length, config.data.bos));
    RETURN_IF_ERROR(CheckVocabulary(stage.loader->vocabulary(), opened->corpus().vocabulary(),
                                    "evaluate.sets." + set.name));
    stage.sets.push_back(std::move(opened));
  }
  return stage;
}

}  // namespace

absl::StatusOr<std::vector<Stage>> OpenStages(const RunConfig& config, int world,
                                              const Device& device) {
  std::vector<Stage> stages;
  for (const StageConfig& stage_config : config.stages) {
    ASSIGN_OR_RETURN(Stage stage, OpenStage(config, stage_config, world, device));
    if (!stages.empty()) {
      RETURN_IF_ERROR(CheckVocabulary(stages.front().loader->vocabulary(),
                                      stage.loader->vocabulary(), "stage " + stage_config.name));
    }
    stages.push_back(std::move(stage));
  }
  return stages;
}

std::string DataDigest(const std::vector<Stage>& stages) {
  std::string all;
  for (const Stage& stage : stages) all += stage.loader->digest() + "\n";
  return BytesDigest(all);
}

absl::StatusOr<std::vector<HeldOutResult>> EvaluateSets(World& world, Context& context,
                                                        Stack& stack, const Stage& stage) {
  std::vector<HeldOutResult> results;
  for (size_t i = 0; i < stage.sets.size(); ++i) {
    ASSIGN_OR_RETURN(HeldOutResult result, Evaluate(world, context, stack, *stage.sets[i],
                                                    stage.set_configs[i].name, stage.plan.micro));
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace mneme
