#include "launch/model.h"

#include "kernels/core/check.h"

namespace mneme {

absl::StatusOr<OpenModel> OpenCheckpoint(World& world, const ModelArguments& arguments) {
  OpenModel model;
  ASSIGN_OR_RETURN(model.loaded, LoadModel(world, arguments.checkpoint, arguments.parallel));
  auto tokenizer = MakeTokenizer(model.loaded->meta.vocabulary);
  if (tokenizer.ok()) model.tokenizer = *std::move(tokenizer);
  return model;
}

absl::StatusOr<std::unique_ptr<HeldOut>> OpenHeldOut(World& world, const LoadedModel& model,
                                                     const HeldOutConfig& set) {
  const DataConfig& data = model.config.data;
  std::unique_ptr<HeldOut> held_out;
  const auto open = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(held_out,
                     HeldOut::Open(set, data.doc_boundary, model.sequence_length, data.bos));
    const VocabularyInfo& theirs = held_out->corpus().vocabulary();
    const VocabularyInfo& ours = model.meta.vocabulary;
    if (theirs.digest == ours.digest) return absl::OkStatus();
    return absl::InvalidArgumentError(
        set.data + ": has another vocabulary (" + std::to_string(theirs.size) + " ids, digest " +
        theirs.digest + ") than the model of " + model.path + " (" + std::to_string(ours.size) +
        " ids, digest " + ours.digest + ")");
  };
  RETURN_IF_ERROR(world.Agree(open()));
  return held_out;
}

}  // namespace mneme
