#include "engine/sweep/cell_key.h"

#include "configs/flatten.h"
#include "configs/load.h"
#include "configs/stages.h"
#include "data/files.h"
#include "data/manifest.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// Left out of the digest: what a run may change and go on, but for what decides its numbers.
bool IsFree(const std::string& key) {
  const bool decides =
      key == "train.steps" || key.rfind("evaluate.sets.", 0) == 0 ||
      (key.rfind("stages.", 0) == 0 && (key.ends_with(".steps") || key.ends_with(".tokens")));
  return MayChangeOnResume(key) && !decides;
}

absl::StatusOr<std::string> DigestOf(const std::string& folder) {
  ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(folder));
  return CorpusDigest(manifest);
}

absl::Status AddCorpora(const std::string& key, const std::vector<std::string>& folders,
                        std::string& text) {
  for (const std::string& folder : folders) {
    ASSIGN_OR_RETURN(const std::string digest, DigestOf(folder));
    text += key + ": " + digest + "\n";
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CellText(const RunConfig& config) {
  RunConfig copy = config;
  if (IsSingleDerivedStage(copy)) copy.stages.clear();
  // Only the first held-out set gives validation_loss.
  if (copy.evaluate.sets.size() > 1) copy.evaluate.sets.resize(1);
  for (HeldOutConfig& set : copy.evaluate.sets) set.name.clear();
  RunConfig plain;
  StageConfig stage;
  HeldOutConfig set;
  const auto defaults = Flatten(Reflector::Of(plain), "");
  const auto stage_defaults = Flatten(Reflector::Of(stage), "");
  std::string text;
  for (const auto& [key, value] : Flatten(Reflector::Of(copy), "")) {
    if (IsFree(key) || key.ends_with(".train") || key == "evaluate.sets.0.data") continue;
    if (const auto found = defaults.find(key); found != defaults.end() && found->second == value)
      continue;
    if (key == "evaluate.sets.0.name" || (key == "evaluate.sets.0.sequences" && value == "0"))
      continue;
    if (key.rfind("stages.", 0) == 0) {
      const std::string own = key.substr(key.find('.', 7) + 1);
      if (const auto found = stage_defaults.find(own);
          found != stage_defaults.end() && found->second == value) {
        continue;
      }
    }
    text += key + ": " + value + "\n";
  }
  RETURN_IF_ERROR(AddCorpora("data.train", config.data.train, text));
  for (size_t i = 0; i < copy.stages.size(); ++i) {
    RETURN_IF_ERROR(AddCorpora("stages." + std::to_string(i), copy.stages[i].data.train, text));
  }
  if (!copy.evaluate.sets.empty())
    RETURN_IF_ERROR(AddCorpora("evaluate", {copy.evaluate.sets.front().data}, text));
  return text;
}

absl::StatusOr<std::string> CellKey(const RunConfig& config) {
  ASSIGN_OR_RETURN(const std::string text, CellText(config));
  return BytesDigest(text);
}

}  // namespace mneme
