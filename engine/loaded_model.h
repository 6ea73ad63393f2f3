// A model as a checkpoint holds it, for evaluate, generate and analyze: weights only, on any number
// of ranks.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/machine/machine.h"
#include "parallel/world.h"

namespace mneme {

struct LoadedModel {
  std::string path;         // of the checkpoint
  RunConfig config;         // resolved, as it was trained; vocab_size filled in
  CheckpointMeta meta;      // vocabulary, tokenizer, digests
  RunPosition position;     // where the run stood
  int64_t sequence_length;  // of the stage it stood in; rotary tables are set for it
  YarnConfig yarn;          // of that stage

  std::unique_ptr<Machine> machine;
  std::unique_ptr<Model> model;

  // From here on sequences of `length` under a rotary scaling of `scale` (0: as trained; 1: none).
  // An unextended model's original length is the one it was trained at.
  void SetLength(int64_t length, double scale);

  // In which the run stood.
  const StageConfig& stage() const { return config.stages[static_cast<size_t>(position.stage)]; }

  Context& context() { return machine->context; }
  Stack& stack() { return *model->stack; }
};

// `path` is a checkpoint (…/step-400), or a run folder or its checkpoints/ folder: then the newest
// whole one, with a warning on stderr (rank 0) for each torn one passed over. `parallel` spreads
// experts and rows over this world. Errors: DataLoss (exit 3) naming the candidates where none
// loads; NotFound where there is none. Collective.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(World& world, const std::string& path,
                                                       const ParallelConfig& parallel = {});

}  // namespace mneme
