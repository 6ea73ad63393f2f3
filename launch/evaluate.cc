// mneme evaluate CHECKPOINT [--data CORPUS...]
#include "engine/evaluation/evaluate.h"

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "configs/json_text.h"
#include "kernels/core/check.h"
#include "launch/model.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

// The last name of a path, with or without a slash behind it.
std::string NameOf(const std::string& path) {
  std::error_code error;
  const auto whole = std::filesystem::absolute(path, error).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

std::vector<HeldOutConfig> Sets(const EvaluateArguments& arguments, const RunConfig& config) {
  std::vector<HeldOutConfig> sets = config.evaluate.sets;
  if (!arguments.data.empty()) sets.clear();
  for (const std::string& path : arguments.data) sets.push_back({NameOf(path), path, 0});
  if (arguments.sequences > 0) {
    for (HeldOutConfig& set : sets) set.sequences = arguments.sequences;
  }
  return sets;
}

// What n-grams are counted in.
absl::StatusOr<std::string> NgramText(const EvaluateArguments& arguments,
                                      const LoadedModel& model) {
  if (!arguments.ngrams_from.empty()) return arguments.ngrams_from;
  const std::vector<std::string>& train = model.stage().data.train;
  if (!train.empty()) return train.front();
  return absl::InvalidArgumentError(
      "--ngrams: the model's run names no training corpus; name one with --ngrams-from CORPUS");
}

void Print(const HeldOutResult& result, const char* what) {
  std::printf("%-14s %-14s %8.4f nats a token  %7.4f bits a byte  (%ld tokens)\n",
              result.name.c_str(), what, result.loss, result.bits_per_byte,
              static_cast<long>(result.tokens));
}

}  // namespace

absl::StatusOr<int> EvaluateVerb(World& world, const EvaluateArguments& arguments) {
  ASSIGN_OR_RETURN(const OpenModel model, OpenCheckpoint(world, arguments.model));
  LoadedModel& loaded = *model.loaded;
  if (arguments.sequence_length > 0 || arguments.yarn_scale > 0.0) {
    loaded.SetLength(
        arguments.sequence_length > 0 ? arguments.sequence_length : loaded.sequence_length,
        arguments.yarn_scale);
  }
  const std::vector<HeldOutConfig> sets = Sets(arguments, loaded.config);
  if (sets.empty())
    return absl::InvalidArgumentError(
        "nothing to score: the run has no evaluate.sets; give --data CORPUS");
  const bool speaks = world.rank() == 0 && !arguments.json;
  std::vector<std::string> results;
  std::string without_value;  // a set whose loss is no number
  for (const HeldOutConfig& config : sets) {
    ASSIGN_OR_RETURN(const std::unique_ptr<HeldOut> set, OpenHeldOut(world, loaded, config));
    const auto score = [&](bool memory_off) {
      return Evaluate(world, loaded.context(), loaded.stack(), *set, config.name,
                      arguments.micro_batch, memory_off);
    };
    JsonObject json;
    ASSIGN_OR_RETURN(const HeldOutResult result, score(false));
    json.AddRaw("score", HeldOutJson(result));
    if (!std::isfinite(result.loss)) without_value = config.name;
    if (arguments.by_position) json.AddRaw("loss_by_position", JsonArray(result.loss_by_position));
    if (speaks) Print(result, "model");
    if (arguments.memory_off) {
      ASSIGN_OR_RETURN(const HeldOutResult off, score(true));
      json.AddRaw("memory_off", HeldOutJson(off));
      if (speaks) Print(off, "memory off");
    }
    std::vector<double> nats;
    if (arguments.ngrams > 0) {
      ASSIGN_OR_RETURN(const std::string from, NgramText(arguments, loaded));
      ASSIGN_OR_RETURN(nats, NgramNats(world, from, *set, arguments.ngrams));
      json.AddRaw("ngrams", JsonArray(nats));
    }
    for (size_t i = 0; speaks && i < nats.size(); ++i) {
      std::printf("%-14s %zu-gram         %8.4f nats a token\n", config.name.c_str(), i + 1,
                  nats[i]);
    }
    results.push_back(json.Text());
  }
  if (world.rank() == 0 && arguments.json) {
    JsonObject json;
    json.Add("checkpoint", loaded.path)
        .Add("step", loaded.position.step)
        .AddRaw("sets", JsonArray(results));
    std::printf("%s\n", json.Text().c_str());
  }
  if (without_value.empty()) return 0;
  if (world.rank() == 0) {
    std::fprintf(stderr, "mneme: the loss of %s is not a number: the model has diverged\n",
                 without_value.c_str());
  }
  return 4;
}

}  // namespace mneme
