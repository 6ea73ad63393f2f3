#include "launch/model.h"

#include "data/ngram_baseline.h"
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
  const DataConfig& data = model.stage().data;
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

absl::StatusOr<std::vector<int32_t>> PromptIds(const OpenModel& model, const std::string& text,
                                               std::vector<int32_t> ids) {
  const VocabularyInfo& vocabulary = model.loaded->meta.vocabulary;
  if (!text.empty() && model.tokenizer == nullptr) {
    return absl::InvalidArgumentError(
        "the model's ids were made elsewhere: give --prompt-ids 1,2,3 instead of --prompt");
  }
  if (!text.empty()) model.tokenizer->Encode(text, ids);
  if (ids.empty()) return absl::InvalidArgumentError("nothing to go on from: give --prompt TEXT");
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocabulary.size) continue;
    return absl::InvalidArgumentError("--prompt-ids: " + std::to_string(id) +
                                      " is no id of the vocabulary; ids are 0 to " +
                                      std::to_string(vocabulary.size - 1));
  }
  if (model.loaded->stage().data.bos && vocabulary.bos >= 0) {
    ids.insert(ids.begin(), static_cast<int32_t>(vocabulary.bos));
  }
  return ids;
}

absl::StatusOr<std::vector<double>> NgramNats(World& world, const std::string& from,
                                              const HeldOut& set, int64_t order) {
  std::vector<double> nats;
  const auto fit = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto corpus, Corpus::Open(from));
    ASSIGN_OR_RETURN(const NgramBaseline fitted, FitNgrams(*corpus, set.corpus(), order));
    nats = fitted.nats;
    return absl::OkStatus();
  };
  const bool mine = order > 0 && world.rank() == 0;
  RETURN_IF_ERROR(world.Agree(mine ? fit() : absl::OkStatus()));
  return nats;
}

}  // namespace mneme
