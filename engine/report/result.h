// result.json: what a finished run says of itself.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/evaluation/evaluate.h"
#include "models/count.h"

namespace mneme {

struct RunResult {
  RunPosition position;
  std::vector<HeldOutResult> sets;  // the first gives validation_loss
  double unigram_entropy = 0.0;     // of the first set; absent without one
  double train_loss = 0.0;  // of the last step; absent where no step was made in this process
  bool trained = false;
  double seconds = 0.0;     // of training in this process
  int64_t tokens_here = 0;  // trained on in those seconds
  int64_t peak_memory = 0;  // bytes, of the fullest rank
  int64_t predicted_memory = 0;
  double step_seconds = 0.0;       // median of the last stage
  double predicted_seconds = 0.0;  // of such a step; 0: no rates are known for the device
  int ranks = 0;
  Counts counts;
};

// One strict-JSON object, keys in a fixed order. Written atomically.
absl::Status WriteResult(const std::string& path, const RunResult& result);

// What is read of a result again. A number that the file leaves out, or that was not finite, is
// NaN.
struct StoredResult {
  std::string text;  // the whole file
  int64_t steps = 0;
  int64_t peak_memory = 0;  // bytes; 0: not said
  double validation_loss = 0.0;
  double validation_bits_per_byte = 0.0;
  double seconds = 0.0;
  double tokens_per_second = 0.0;
  std::vector<std::pair<std::string, double>> set_losses;  // by the sets' names
};
// Errors: NotFound; DataLoss naming the file and the members that WriteResult does not write so.
absl::StatusOr<StoredResult> ReadResult(const std::string& path);

}  // namespace mneme
