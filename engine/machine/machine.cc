#include "engine/machine/machine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/kernels.h"

namespace mneme {
RecomputePlan RecomputeOf(const TrainConfig& train) {
  const auto asked = [&](const char* part) {
    return std::any_of(train.recompute.begin(), train.recompute.end(),
                       [&](const std::string& p) { return p == part || p == "all"; });
  };
  return {asked("attention"), asked("ffn"), asked("mhc"), asked("exchange"), asked("engram")};
}

Machine::Machine(World& world, const Layout& layout, DType dtype, Device device)
    : allocator(device),
      stream(device, allocator),
      mesh(MakeMesh(world, layout, device)),
      context{device.is_cpu() ? CpuKernels() : *GpuKernels(), stream, mesh, dtype} {}

bool RecordsSteps(const RunConfig& config, const Layout& layout, const Device& device) {
  return !device.is_cpu() && config.train.cuda_graph && !config.train.time_parts &&
         layout.expert == 1 && layout.memory == 1;
}

DType PrecisionOf(const RunConfig& config) {
  if (config.train.precision == "bf16") return DType::kBf16;
  return config.train.precision == "f64" ? DType::kF64 : DType::kF32;
}

absl::StatusOr<int64_t> ModelVocabularySize(const ModelConfig& config, const VocabularyInfo& data) {
  if (config.vocab_size == 0) return data.size;
  if (config.vocab_size < data.size) {
    return absl::InvalidArgumentError(
        "model.vocab_size " + std::to_string(config.vocab_size) + " is less than the " +
        std::to_string(data.size) +
        " ids of the data: raise it, or leave it at 0 to take the data's");
  }
  return config.vocab_size;
}

Vocabulary MakeVocabulary(const ModelConfig& config, const VocabularyInfo& data) {
  Vocabulary vocabulary;
  vocabulary.size = config.vocab_size == 0 ? data.size : config.vocab_size;
  const int64_t raw_pad = data.pad >= 0 ? data.pad : std::max<int64_t>(data.eos, 0);
  vocabulary.canonical.resize(static_cast<size_t>(vocabulary.size));
  const bool compressed = config.engram.compression;
  const auto map = [&](int64_t id) -> int32_t {
    if (!compressed) return static_cast<int32_t>(id);
    return data.canonical[static_cast<size_t>(id)];
  };
  vocabulary.pad = map(raw_pad);
  for (int64_t id = 0; id < vocabulary.size; ++id) {
    const bool known = id < data.size || !compressed;
    vocabulary.canonical[static_cast<size_t>(id)] =
        known ? map(id) : static_cast<int32_t>(vocabulary.pad);
  }
  vocabulary.canonical_size = compressed ? data.canonical_size : vocabulary.size;
  return vocabulary;
}

absl::StatusOr<std::unique_ptr<Model>> BuildModel(World& world, Machine& machine,
                                                  const RunConfig& config,
                                                  const VocabularyInfo& vocabulary) {
  auto model = std::make_unique<Model>();
  ModelConfig model_config = config.model;
  absl::Status status;
  if (absl::StatusOr<int64_t> size = ModelVocabularySize(config.model, vocabulary); size.ok()) {
    model_config.vocab_size = *size;
    auto stack = Stack::Make(machine.context, model_config,
                             MakeVocabulary(model_config, vocabulary), RecomputeOf(config.train),
                             static_cast<uint64_t>(config.train.seed), model->store);
    if (stack.ok()) model->stack = std::move(stack).value();
    status = stack.status();
  } else {
    status = size.status();
  }
  RETURN_IF_ERROR(world.Agree(status));
  model->store.Allocate(machine.stream, machine.context.dtype, machine.mesh.layout, world.rank());
  model->store.Initialize(machine.stream, machine.context.kernels,
                          static_cast<uint64_t>(config.train.seed));
  return model;
}

}  // namespace mneme
