#include "engine/result.h"

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "data/files.h"
#include "data/json_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

std::string SetsJson(const std::vector<HeldOutResult>& sets) {
  JsonObject all;
  for (const HeldOutResult& set : sets) all.AddRaw(set.name, HeldOutJson(set));
  return all.Text();
}

std::string CountsJson(const Counts& counts) {
  return JsonObject()
      .Add("total", counts.total())
      .Add("total_paper", counts.total_paper())
      .Add("active", counts.active())
      .Add("sparse", counts.sparse())
      .Add("tables", counts.tables)
      .Text();
}

}  // namespace

absl::Status WriteResult(const std::string& path, const RunResult& result) {
  JsonObject j;
  j.Add("steps", result.position.step)
      .Add("updates", result.position.updates)
      .Add("tokens", result.position.tokens);
  if (!result.sets.empty()) {
    j.Add("validation_loss", result.sets.front().loss)
        .Add("validation_bits_per_byte", result.sets.front().bits_per_byte)
        .Add("unigram_entropy", result.unigram_entropy)
        .AddRaw("sets", SetsJson(result.sets));
  }
  if (result.trained) {
    j.Add("train_loss", result.train_loss)
        .Add("seconds", result.seconds)
        .Add("tokens_per_second", static_cast<double>(result.tokens_here) / result.seconds);
  }
  if (result.trained && result.predicted_seconds > 0.0) {
    j.Add("step_seconds", result.step_seconds)
        .Add("predicted_step_seconds", result.predicted_seconds);
  }
  j.Add("peak_memory_bytes", result.peak_memory)
      .Add("predicted_memory_bytes", result.predicted_memory)
      .Add("ranks", result.ranks)
      .AddRaw("parameters", CountsJson(result.counts));
  return WriteFileAtomically(path, j.Text() + "\n");
}

absl::StatusOr<int64_t> ReadResultSteps(const std::string& path) {
  ASSIGN_OR_RETURN(const Json result, ReadJson(path));
  std::vector<std::string> faults;
  const int64_t steps = JsonFields(result, "", faults).Integer("steps");
  if (faults.empty()) return steps;
  return absl::DataLossError(path + ": " + faults.front());
}

}  // namespace mneme
