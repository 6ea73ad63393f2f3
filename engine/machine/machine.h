// One rank's machine made real, and a model on it: what training, evaluation and generation stand
// on.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "data/corpus.h"
#include "kernels/core/memory.h"
#include "kernels/core/stream.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/world.h"

namespace mneme {

// Memory pool, stream, communicators and the context that lends them to layers. One a rank;
// outlives what is made on it.
struct Machine {
  // dtype: of activations. Collective. REQUIRES: a device that this build computes on
  // (ChooseDevice).
  Machine(World& world, const Layout& layout, DType dtype, Device device = {});
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Allocator allocator;
  Stream stream;
  Mesh mesh;
  Context context;
};

// Parameters and the layers that use them.
struct Model {
  ParameterStore store;
  std::unique_ptr<Stack> stack;
};

// Which parts train.recompute names; none where that is left to memory_fit.h.
RecomputePlan RecomputeOf(const TrainConfig& train);
// Whether a step is recorded once and replayed, as far as the run says: on a GPU, where the host
// reads nothing of it and nobody asks where its time goes.
bool RecordsSteps(const RunConfig& config, const Layout& layout, const Device& device);
// train.precision as the dtype of activations.
DType PrecisionOf(const RunConfig& config);
// model.vocab_size, the data's where it is 0. Errors: fewer ids than the data has.
absl::StatusOr<int64_t> ModelVocabularySize(const ModelConfig& config, const VocabularyInfo& data);
// What the hash needs to know (docs/mathematics.md): without compression P is the identity and V'
// the model's vocabulary; ids beyond the data's map to the pad.
Vocabulary MakeVocabulary(const ModelConfig& config, const VocabularyInfo& data);

// Declares, allocates and initializes the whole model. `config.model.vocab_size` may be 0.
// Collective; the same status on every rank.
absl::StatusOr<std::unique_ptr<Model>> BuildModel(World& world, Machine& machine,
                                                  const RunConfig& config,
                                                  const VocabularyInfo& vocabulary);

}  // namespace mneme
