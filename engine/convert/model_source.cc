#include "engine/convert/model_source.h"

#include <filesystem>

#include "data/json_file.h"
#include "data/vocabulary_file.h"
#include "kernels/core/check.h"

namespace mneme {

absl::Status ModelSource::TakeVocabulary(const std::string& corpus, const std::string& tokenizer) {
  if (!corpus.empty()) {
    std::error_code error;
    const std::string file = corpus + "/" + kVocabularyName;
    if (!std::filesystem::exists(file, error)) {
      return absl::InvalidArgumentError(corpus + ": is no prepared corpus (it has no " +
                                        kVocabularyName + "); see mneme help prepare");
    }
    ASSIGN_OR_RETURN(VocabularyInfo taken, ReadVocabulary(file));
    if (taken.size > config_.model.vocab_size) {
      return absl::InvalidArgumentError(corpus + ": has " + std::to_string(taken.size) +
                                        " ids, the model " +
                                        std::to_string(config_.model.vocab_size));
    }
    vocabulary_ = std::move(taken);
  }
  if (tokenizer.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> text = ReadJsonText(tokenizer);
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  std::erase_if(texts_, [](const auto& entry) { return entry.first == "tokenizer.json"; });
  texts_.emplace_back("tokenizer.json", *text);
  return absl::OkStatus();
}

}  // namespace mneme
