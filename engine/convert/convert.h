// Weights from one format to another (docs/conversion.md). Streaming: memory is bounded by a few
// chunks of rows. Resumable: killed at any moment, the same call goes on with the file it was at,
// and the bytes are those of an undisturbed run. Nothing is seen under `to` before it is whole.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

inline constexpr char kCertificateName[] = "certificate.json";

struct ConvertOptions {
  std::string from;
  std::string to;                      // a folder that is not there yet
  std::string format;                  // "mneme" or "huggingface"
  std::string dtype = "bf16";          // of weights in the Hugging Face layout: "bf16", "f32"
  int64_t file_bytes = 5'000'000'000;  // of a file of weights, about
  std::string vocabulary;      // a prepared corpus whose vocabulary the model takes; may be empty
  std::string tokenizer_json;  // a file to go with an export; may be empty
  std::string add_engram;      // a config whose model.engram the model gets; may be empty
  std::vector<std::string> overrides;  // key=value on top of that config
  bool replace = false;                // put the new folder in the place of an old one
  bool logits = true;                  // compare logits where both sides can run here
  std::function<void(const std::string&)> say = [](const std::string&) {};
};

struct ConvertResult {
  std::string to;
  std::string architecture;  // of an export: "deepseek_v2", "deepseek_v3", "mneme"
  int64_t tensors = 0;
  int64_t left_out = 0;
  int64_t made = 0;
  int64_t files = 0;
  int64_t bytes = 0;                // of weights
  double logits_difference = -1.0;  // −1: not compared
  std::vector<std::string> notes;
};

// Errors: InvalidArgument (options, a config that cannot be mapped), NotFound, DataLoss (the source
// is damaged), FailedPrecondition (`to` is there, or a checkpoint is of another model than it
// says), ResourceExhausted (disk full).
absl::StatusOr<ConvertResult> Convert(const ConvertOptions& options);

}  // namespace mneme
