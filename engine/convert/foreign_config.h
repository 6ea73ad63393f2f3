// config.json of DeepSeek-V2 and V3 models <-> our configuration. Every key is mapped, or refused
// by its name: nothing is passed over that would change what the model computes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/json.h"
#include "configs/run.h"

namespace mneme {

struct ForeignConfig {
  std::string model_type;  // "deepseek_v2", "deepseek_v3"
  ModelConfig model;       // vocab_size stated
  YarnConfig yarn;
  int64_t sequence_length = 0;  // trained at: before an extension where there was one
  int64_t bos = -1, eos = -1, pad = -1;
  int64_t prediction_layers = 0;   // MTP modules, which are left out
  bool half_split_rotary = false;  // rows of rotary parts stand as two halves, not as pairs
  int64_t scale_block = 0;  // FP8: weights have a scale per block of this many rows and columns
  std::vector<std::string> notes;  // what is mapped with a loss, a sentence each
};

// InvalidArgument with a line a fault, each naming `path` and the key.
absl::StatusOr<ForeignConfig> ReadForeignConfig(const Json& json, const std::string& path);

// A whole configuration with that model: what an imported checkpoint stores. The run's own keys
// keep their defaults.
RunConfig RunConfigOf(const ForeignConfig& foreign);
// The model and its rotary scaling as YAML that a run may include.
std::string ForeignConfigYaml(const ForeignConfig& foreign);

}  // namespace mneme
