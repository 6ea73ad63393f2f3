// A checkpoint opened by a verb, with what it needs to read and write text.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "engine/loaded_model.h"
#include "launch/arguments.h"

namespace mneme {

struct OpenModel {
  std::unique_ptr<LoadedModel> loaded;
  std::unique_ptr<Tokenizer> tokenizer;  // null where ids were made elsewhere
};

// Collective; the same status on every rank.
absl::StatusOr<OpenModel> OpenCheckpoint(World& world, const ModelArguments& arguments);

// A corpus to score the model on, at the sequence length it was trained at. Errors: a corpus that
// cannot be read, or of another vocabulary.
absl::StatusOr<std::unique_ptr<HeldOut>> OpenHeldOut(World& world, const LoadedModel& model,
                                                     const HeldOutConfig& set);

// Text, or ids, as what the model goes on from; with the beginning-of-document id where the model
// was trained with it. Errors: nothing to go on from, text for a model without tokenizer, unknown
// ids.
absl::StatusOr<std::vector<int32_t>> PromptIds(const OpenModel& model, const std::string& text,
                                               std::vector<int32_t> ids);

// [order - 1]: nats a token of interpolated n-grams counted on the corpus in `from`; empty for
// order 0. Rank 0 counts and has the numbers; the same status on every rank.
absl::StatusOr<std::vector<double>> NgramNats(World& world, const std::string& from,
                                              const HeldOut& set, int64_t order);

}  // namespace mneme
