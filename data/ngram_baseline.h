// What counting alone reaches: interpolated n-grams over ids, fitted on training text and scored on
// held-out text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "data/corpus.h"

namespace mneme {

struct NgramBaseline {
  // [order − 1]: held-out cross-entropy of the interpolated model of that order, nats a predicted
  // id. Order 1 is the unigram.
  std::vector<double> nats;
  int64_t trained_on = 0;  // ids counted
  int64_t scored_on = 0;   // ids predicted: every one but each document's first, as a trainer under
                           // `reset` counts them
};

// Byte vocabulary only (InvalidArgument otherwise), orders 1 to max_order ≤ 7. At most the first
// `max_train` ids are counted. Context never crosses a document's begin. Memory: about 20 bytes a
// distinct n-gram.
absl::StatusOr<NgramBaseline> FitNgrams(const Corpus& train, const Corpus& held_out,
                                        int64_t max_order, int64_t max_train = int64_t{1} << 26);

// Cross-entropy of held-out ids under the frequencies of the training ids (add-half over the
// vocabulary), any vocabulary, nats an id.
double UnigramEntropy(const Corpus& train, const Corpus& held_out);

}  // namespace mneme
