#include "engine/result.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/files.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN: what is not finite is null.
Json Number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

Json SetJson(const HeldOutResult& set) {
  return {{"loss", Number(set.loss)},
          {"bits_per_byte", Number(set.bits_per_byte)},
          {"tokens", set.tokens}};
}

}  // namespace

absl::Status WriteResult(const std::string& path, const RunResult& result) {
  Json j = Json::object();
  if (!result.sets.empty()) {
    const HeldOutResult& first = result.sets.front();
    j["validation_loss"] = Number(first.loss);
    j["validation_bits_per_byte"] = Number(first.bits_per_byte);
    j["unigram_entropy"] = Number(result.unigram_entropy);
    for (const HeldOutResult& set : result.sets) j["sets"][set.name] = SetJson(set);
  }
  if (result.trained) j["train_loss"] = Number(result.train_loss);
  j["steps"] = result.position.step;
  j["updates"] = result.position.updates;
  j["tokens"] = result.position.tokens;
  if (result.trained) {
    j["seconds"] = result.seconds;
    j["tokens_per_second"] = Number(static_cast<double>(result.tokens_here) / result.seconds);
  }
  j["peak_memory_bytes"] = result.peak_memory;
  j["ranks"] = result.ranks;
  const Counts& c = result.counts;
  j["parameters"] = {{"total", c.total()},
                     {"total_paper", c.total_paper()},
                     {"active", c.active()},
                     {"sparse", c.sparse()},
                     {"tables", c.tables}};
  return WriteFileAtomically(path, j.dump(1) + "\n");
}

}  // namespace mneme
