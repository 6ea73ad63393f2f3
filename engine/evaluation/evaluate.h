// Held-out loss: the same sequences every time, on any number of ranks, without changing the run's
// bits.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/loader.h"
#include "engine/evaluation/document_score.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/world.h"

namespace mneme {

struct HeldOutResult {
  std::string name;
  double loss = 0.0;                     // nats a counted token
  double bits_per_byte = 0.0;            // of UTF-8 text
  int64_t tokens = 0;                    // counted
  std::vector<double> loss_by_position;  // mean at each position of the sequence
  std::vector<DocumentScore> documents;  // those with a counted token, in the corpus's order
};

// Sums are made per sequence and added in sequence order, so the loss does not depend on the rank
// count beyond the model's own rounding (loss_by_position is added rank by rank). micro_batch: 0
// chooses. memory_off: as if Engram gave nothing (arXiv 2601.07372). Errors: a set without one
// counted token. Collective; the same result on every rank.
absl::StatusOr<HeldOutResult> Evaluate(World& world, Context& context, Stack& stack,
                                       const HeldOut& set, const std::string& name,
                                       int64_t micro_batch, bool memory_off = false);

// Cross-entropy in nats of the set's counted targets under add-half frequencies of the training
// samples' inputs (of at most 2^24 ids). For one rank.
double UnigramEntropy(const Loader& train, const HeldOut& set);

// One JSON object: name, loss, bits_per_byte, tokens.
std::string HeldOutJson(const HeldOutResult& result);

}  // namespace mneme
