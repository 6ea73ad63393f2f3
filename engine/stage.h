// One stage of a run, opened: its data, its batch arithmetic, its schedule.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "data/loader.h"
#include "engine/evaluation/evaluate.h"
#include "parallel/layout.h"
#include "parallel/world.h"

namespace mneme {

struct Stage {
  StageConfig config;
  int64_t steps = 0;       // of this stage, as it states them or its tokens come to
  double peak_rate = 0.0;  // learning rate
  BatchPlan plan;          // of one update
  std::unique_ptr<Loader> loader;
  std::vector<HeldOutConfig> set_configs;
  std::vector<std::unique_ptr<HeldOut>> sets;  // in order of set_configs

  // Tokens of a sequence.
  int64_t length() const { return config.sequence_length; }
};

// Opens data and plans the batch of every stage, so that what is wrong shows before anything is
// allocated. Errors: data that cannot be read; vocabularies that differ between stages or from the
// held-out sets'; a batch that cannot be dealt to `world` ranks. For each rank; the caller agrees.
absl::StatusOr<std::vector<Stage>> OpenStages(const RunConfig& config, int world,
                                              const Device& device);

// Names the data of all stages whatever its paths: 16 hex digits (Loader::digest of each).
std::string DataDigest(const std::vector<Stage>& stages);

// Scores every held-out set, in order. Errors: a set without one counted token. Collective; the
// same results on every rank.
absl::StatusOr<std::vector<HeldOutResult>> EvaluateSets(World& world, Context& context,
                                                        Stack& stack, const Stage& stage);

}  // namespace mneme
