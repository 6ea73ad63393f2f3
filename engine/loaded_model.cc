#include "engine/loaded_model.h"

#include <cstdio>
#include <utility>

#include "configs/load.h"
#include "engine/machine/device.h"
#include "engine/run_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// Everything that one rank can say about the checkpoint before anything is built.
absl::Status ReadDescription(LoadedModel& loaded) {
  ASSIGN_OR_RETURN(loaded.meta, ReadCheckpointMeta(loaded.path));
  ASSIGN_OR_RETURN(loaded.position, ReadCheckpointPosition(loaded.path));
  ASSIGN_OR_RETURN(loaded.config, ParseConfig(loaded.meta.config, loaded.path + "/config.yaml"));
  const size_t stage = static_cast<size_t>(loaded.position.stage);
  if (stage >= loaded.config.stages.size()) {
    return absl::DataLossError(loaded.path + ": stands in stage " + std::to_string(stage) +
                               ", its config has " + std::to_string(loaded.config.stages.size()));
  }
  loaded.sequence_length = loaded.config.stages[stage].sequence_length;
  loaded.yarn = loaded.config.stages[stage].yarn;
  ASSIGN_OR_RETURN(loaded.config.model.vocab_size,
                   ModelVocabularySize(loaded.config.model, loaded.meta.vocabulary));
  return absl::OkStatus();
}

}  // namespace

void LoadedModel::SetLength(int64_t length, double scale) {
  if (scale > 0.0) {
    if (stage().yarn.scale == 1.0) yarn.original_length = stage().sequence_length;
    yarn.scale = scale;
  }
  sequence_length = length;
  stack().SetPositions(context(), sequence_length, yarn);
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(World& world, const std::string& path,
                                                       const ParallelConfig& parallel) {
  auto loaded = std::make_unique<LoadedModel>();
  const auto warn = [&](const std::string& text) {
    if (world.rank() == 0) std::fprintf(stderr, "%s\n", text.c_str());
  };
  ASSIGN_OR_RETURN(loaded->path, FindCheckpoint(world, path, warn));
  RETURN_IF_ERROR(world.Agree(ReadDescription(*loaded)));
  loaded->config.parallel = parallel;
  ASSIGN_OR_RETURN(Layout layout, MakeLayout(parallel, world.size()));
  layout.peer = false;  // no stretch is reserved here that could be shared
  // On a GPU where there is one, whatever it was trained on. A model trained in bf16 is read in f32
  // elsewhere: its checkpoint holds the masters. Tables that a GPU cannot hold stay on the CPU.
  const std::string precision = loaded->config.train.precision;
  const EngramConfig& engram = loaded->config.model.engram;
  const bool lazy = !engram.blocks.empty() && engram.table.store == "lazy";
  loaded->config.device = lazy ? "cpu" : "auto";
  if (precision == "bf16") loaded->config.train.precision = "f32";
  ASSIGN_OR_RETURN(const Device device, ChooseDevice(world, loaded->config));
  if (!device.is_cpu()) loaded->config.train.precision = precision;
  loaded->machine = std::make_unique<Machine>(world, layout, PrecisionOf(loaded->config), device);
  ASSIGN_OR_RETURN(loaded->model,
                   BuildModel(world, *loaded->machine, loaded->config, loaded->meta.vocabulary));
  const CheckpointPart part = {&loaded->model->store, nullptr, loaded->model->stack.get()};
  RETURN_IF_ERROR(LoadCheckpoint(world, loaded->context(), loaded->path, part).status());
  loaded->stack().SetPositions(loaded->context(), loaded->sequence_length, loaded->yarn);
  return loaded;
}

}  // namespace mneme
