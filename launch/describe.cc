#include "launch/describe.h"

#include <algorithm>
#include <cstdio>

#include "configs/json_text.h"
#include "configs/load.h"
#include "configs/text.h"
#include "data/corpus.h"
#include "data/hdf5_file.h"
#include "engine/forecast/footprint.h"
#include "engine/report/report.h"
#include "engine/run_folder.h"
#include "kernels/core/check.h"
#include "models/count.h"
#include "parallel/layout.h"

namespace mneme {
namespace {

// The model with the vocabulary of its data, where that can be read; else 0.
ModelConfig WithVocabulary(const RunConfig& config) {
  ModelConfig model = config.model;
  const std::vector<std::string>& train = config.stages.front().data.train;
  if (model.vocab_size > 0 || train.empty()) return model;
  if (const auto corpus = Corpus::Open(train.front()); corpus.ok())
    model.vocab_size = (*corpus)->vocabulary().size;
  return model;
}

JsonObject CountsJson(const ModelConfig& model, int64_t length) {
  const Counts counts = Count(model);
  JsonObject paper, plain, json;
  paper.Add("total", counts.total_paper())
      .Add("total_without_vocabulary", counts.total_without_vocab());
  paper.Add("active", counts.active()).Add("sparse", counts.sparse()).Add("table", counts.tables);
  plain.Add("total", counts.total()).Add("active", counts.total() - counts.sparse());
  plain.Add("sparse", counts.sparse()).Add("table", counts.tables);
  json.Add("vocabulary", model.vocab_size)
      .AddRaw("paper", paper.Text())
      .AddRaw("plain", plain.Text());
  return json.Add("flops_per_token", counts.flops_per_token(length));
}

// Lines for people, each with `lead` before it.
std::string CountsText(const ModelConfig& model, int64_t length, const std::string& lead) {
  const Counts counts = Count(model);
  const auto number = [](int64_t n) {
    return CountText(static_cast<double>(n)) + " (" + std::to_string(n) + ")";
  };
  std::string out = lead + "parameters, as the paper counts: total " +
                    number(counts.total_paper()) + ", active " + number(counts.active()) + "\n";
  out += lead + "parameters, everything trained:  total " + number(counts.total()) + ", active " +
         number(counts.total() - counts.sparse()) + "\n";
  out += lead + "sparse " + number(counts.sparse()) + ", of these tables " + number(counts.tables) +
         "\n";
  out += lead + "FLOPs a token: " + CountText(counts.flops_per_token(length)) +
         " in training, at " + std::to_string(length) + " tokens a sequence\n";
  if (model.vocab_size == 0)
    out += lead + "the vocabulary comes from the data and is not counted here\n";
  return out;
}

std::string FootprintJson(const Footprint& footprint) {
  JsonObject json;
  json.Add("parameters", footprint.parameters).Add("gradients", footprint.gradients);
  json.Add("optimizer", footprint.optimizer).Add("tables", footprint.tables);
  json.Add("activations", footprint.activations).Add("exchange", footprint.exchange);
  json.Add("workspace", footprint.workspace).Add("other", footprint.other);
  return json.Add("kept", footprint.kept).Add("total", footprint.needs()).Text();
}

std::string StageText(const StageConfig& stage, size_t i, int ranks) {
  const int64_t per_rank = stage.batch_sequences / ranks;
  std::string out =
      "stage " + std::to_string(i) + (stage.name.empty() ? "" : " (" + stage.name + ")") + ": " +
      std::to_string(stage.steps) + " steps of " + std::to_string(stage.batch_sequences) + " x " +
      std::to_string(stage.sequence_length) + " tokens = " +
      CountText(static_cast<double>(stage.steps) * static_cast<double>(stage.batch_sequences) *
                static_cast<double>(stage.sequence_length)) +
      " tokens; " + std::to_string(per_rank) + " sequences a rank\n";
  for (const std::string& path : stage.data.train) {
    const auto corpus = Corpus::Open(path);
    out += "  reads " + path +
           (corpus.ok() ? ": " + std::to_string((*corpus)->tokens()) + " tokens"
                        : " (cannot be read yet)") +
           "\n";
  }
  return out;
}

std::string StageJson(const StageConfig& stage) {
  JsonObject json;
  json.Add("name", stage.name)
      .Add("steps", stage.steps)
      .Add("batch_sequences", stage.batch_sequences);
  json.Add("sequence_length", stage.sequence_length);
  return json.Add("tokens", stage.steps * stage.batch_sequences * stage.sequence_length).Text();
}

// rank -> place on the axes, at most the first 16.
std::string LayoutText(const Layout& layout) {
  std::string out = std::to_string(layout.world) + " ranks: experts over " +
                    std::to_string(layout.expert) + ", memory over " +
                    std::to_string(layout.memory) + "\n";
  for (int rank = 0; rank < std::min(layout.world, 16); ++rank) {
    out += "  rank " + std::to_string(rank) + ": expert part " +
           std::to_string(layout.expert_coordinate(rank)) + " of replica " +
           std::to_string(layout.expert_replica(rank)) + ", memory part " +
           std::to_string(layout.memory_coordinate(rank)) + " of replica " +
           std::to_string(layout.memory_replica(rank)) + "\n";
  }
  return out + (layout.world > 16 ? "  ...\n" : "");
}

}  // namespace

std::string ResolvedYaml(const RunConfig& config) {
  return DumpConfig(config) + "\n" +
         CountsText(WithVocabulary(config), config.stages.front().sequence_length, "# ");
}

std::string ResolvedJson(const RunConfig& config) {
  return CountsJson(WithVocabulary(config), config.stages.front().sequence_length)
             .AddRaw("config", ConfigJson(config))
             .Text() +
         "\n";
}

absl::StatusOr<std::string> DescribeRun(const RunConfig& config, int ranks, bool json) {
  ASSIGN_OR_RETURN(const Layout layout, MakeLayout(config.parallel, ranks));
  const ModelConfig model = WithVocabulary(config);
  Device device;
  if (config.device == "gpu" || config.device == "cuda") device.kind = Device::Kind::kGpu;
  const Footprint footprint = PredictFootprint(config, layout, model.vocab_size, device);
  const RunFolder folder{config.run.dir};
  const int64_t length = config.stages.front().sequence_length;
  if (json) {
    std::vector<std::string> stages;
    for (const StageConfig& stage : config.stages) stages.push_back(StageJson(stage));
    JsonObject all;
    all.Add("ranks", ranks).Add("expert", layout.expert).Add("memory", layout.memory);
    all.AddRaw("parameters", CountsJson(model, length).Text())
        .AddRaw("bytes_per_rank", FootprintJson(footprint));
    all.AddRaw("stages", JsonArray(stages)).Add("run_dir", folder.dir);
    return all.Text() + "\n";
  }
  std::string out = CountsText(model, length, "") + LayoutText(layout);
  for (size_t i = 0; i < config.stages.size(); ++i) out += StageText(config.stages[i], i, ranks);
  out += "memory a rank: " + Describe(footprint) +
         "; available here: " + FormatBytes(AvailableMemory()) + "\n";
  return out + "would write " + folder.dir +
         (folder.HoldsRun() ? ", which holds a run: would go on with it\n" : "\n") +
         "dry run: every rule of the config holds; nothing was allocated or written\n";
}

std::string ResultJson(const RunConfig& config, const TrainResult& result) {
  const absl::StatusOr<std::string> written = ReadFileBytes(RunFolder{config.run.dir}.result());
  if (result.exit_code == 0 && written.ok()) return *written;
  return JsonObject().Add("exit_code", result.exit_code).Add("message", result.message).Text();
}

}  // namespace mneme
