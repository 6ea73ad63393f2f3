// Held-out loss: the same sequences every time, on any number of ranks, without changing the run's bits.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "data/loader.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/world.h"

namespace mneme {

struct HeldOutResult {
  std::string name;
  double loss = 0.0;            // nats a counted token
  double bits_per_byte = 0.0;   // of UTF-8 text
  int64_t tokens = 0;           // counted
  std::vector<double> loss_by_position;  // mean at each position of the sequence
  std::vector<double> loss_by_document;  // sums, empty unless asked for
};

// Sums are made per sequence and added in sequence order, so the figure does not depend on the rank count beyond the
// model's own rounding. Collective.
absl::StatusOr<HeldOutResult> Evaluate(World& world, Context& context, Stack& stack, const HeldOut& set,
                                       const std::string& name, int64_t micro_batch, bool memory_off = false);

// unigram_entropy: cross-entropy in nats of the held-out tokens under the training data's smoothed unigram frequencies.
double UnigramEntropy(const Loader& train, const HeldOut& set);

}  // namespace mneme
