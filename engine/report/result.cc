#include "engine/report/result.h"

#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "data/files.h"
#include "data/json_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr double kNotSaid = std::numeric_limits<double>::quiet_NaN();

// A member that is a whole number and none below 0.
int64_t CountOf(JsonFields& fields, std::string_view key, std::optional<int64_t> otherwise) {
  const int64_t count = fields.Integer(key, otherwise);
  if (count < 0) fields.Fault(key, "is " + std::to_string(count) + ", below 0");
  return count;
}

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

absl::StatusOr<StoredResult> ReadResult(const std::string& path) {
  StoredResult result;
  ASSIGN_OR_RETURN(result.text, ReadJsonText(path));
  ASSIGN_OR_RETURN(const Json json, ParseJson(result.text));
  std::vector<std::string> faults;
  JsonFields fields(json, "", faults);
  result.steps = CountOf(fields, "steps", std::nullopt);
  for (const char* name : {"updates", "tokens", "predicted_memory_bytes", "ranks"}) {
    CountOf(fields, name, 0);
  }
  result.peak_memory = CountOf(fields, "peak_memory_bytes", 0);
  result.validation_loss = fields.Number("validation_loss", kNotSaid);
  result.validation_bits_per_byte = fields.Number("validation_bits_per_byte", kNotSaid);
  result.seconds = fields.Number("seconds", kNotSaid);
  result.tokens_per_second = fields.Number("tokens_per_second", kNotSaid);
  for (const char* name :
       {"unigram_entropy", "train_loss", "step_seconds", "predicted_step_seconds"}) {
    fields.Number(name, kNotSaid);
  }
  if (fields.Find("sets") != nullptr) {
    for (auto& [name, set] : fields.FieldsByKey("sets")) {
      const double loss = set.Number("loss", kNotSaid);
      if (!std::isnan(loss)) result.set_losses.emplace_back(name, loss);
      set.Number("bits_per_byte", kNotSaid);
      CountOf(set, "tokens", 0);
    }
  }
  if (fields.Find("parameters") != nullptr) {
    JsonFields counts = fields.Fields("parameters");
    for (const char* name : {"total", "total_paper", "active", "sparse", "tables"}) {
      CountOf(counts, name, 0);
    }
  }
  if (faults.empty()) return result;
  const std::string more =
      faults.size() > 1 ? ", and " + std::to_string(faults.size() - 1) + " more" : "";
  return absl::DataLossError(path + ": " + faults.front() + more);
}

}  // namespace mneme
