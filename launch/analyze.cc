// mneme analyze CHECKPOINT [--data CORPUS]
#include "engine/evaluation/analyze.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "configs/json_text.h"
#include "kernels/core/check.h"
#include "launch/model.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

void PrintJson(const GateReport& report, const OpenModel& model) {
  std::vector<std::string> ngrams;
  for (const NgramGate& ngram : report.largest) {
    JsonObject json;
    json.Add("ngram", ShowIds(ngram.ids, model.tokenizer.get()))
        .Add("gate", ngram.gate)
        .Add("count", ngram.count);
    json.AddRaw("ids", JsonArray(std::vector<double>(ngram.ids.begin(), ngram.ids.end())));
    ngrams.push_back(json.Text());
  }
  JsonObject json;
  json.Add("checkpoint", model.loaded->path)
      .Add("mean_gate", report.mean)
      .Add("positions", report.positions);
  std::printf("%s\n", json.AddRaw("largest", JsonArray(ngrams)).Text().c_str());
}

void PrintText(GateReport report, const OpenModel& model, int64_t shown) {
  const Tokenizer* tokenizer = model.tokenizer.get();
  std::printf("n-grams where the memory's gates open widest (mean over all text: %.3f)\n",
              report.mean);
  for (const NgramGate& ngram : report.largest) {
    std::printf("  %.3f  %s  (%ld times)\n", ngram.gate, ShowIds(ngram.ids, tokenizer).c_str(),
                static_cast<long>(ngram.count));
  }
  report.sample.resize(std::min(report.sample.size(), static_cast<size_t>(shown)));
  if (report.sample.empty()) return;
  const bool colour = WantsColour(STDOUT_FILENO);
  std::printf("\na piece of it, %s\n\n",
              colour ? "shaded by the gates" : "the widest gates marked . : # below");
  std::printf("%s", ShadeText(report.sample, tokenizer, colour).c_str());
}

}  // namespace

absl::StatusOr<int> AnalyzeVerb(World& world, const AnalyzeArguments& arguments) {
  ASSIGN_OR_RETURN(const OpenModel model, OpenCheckpoint(world, arguments.model));
  LoadedModel& loaded = *model.loaded;
  if (loaded.config.model.engram.blocks.empty()) {
    return absl::InvalidArgumentError(loaded.path +
                                      ": this model has no memory (model.engram.blocks is empty)");
  }
  HeldOutConfig set{"analyzed", arguments.data, 0};
  if (set.data.empty() && !loaded.config.evaluate.sets.empty())
    set = loaded.config.evaluate.sets.front();
  if (set.data.empty())
    return absl::InvalidArgumentError(
        "nothing to look at: the run has no evaluate.sets; give --data CORPUS");
  ASSIGN_OR_RETURN(const std::unique_ptr<HeldOut> held_out, OpenHeldOut(world, loaded, set));
  const GateReport report =
      AnalyzeGates(world, loaded.context(), loaded.stack(), *held_out, arguments.options);
  if (world.rank() != 0) return 0;
  if (arguments.json) {
    PrintJson(report, model);
  } else {
    PrintText(report, model, arguments.shown);
  }
  return 0;
}

}  // namespace mneme
