// What counting alone reaches: interpolated n-grams over bytes, fitted on training text and scored
// on held-out text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "data/corpus.h"

namespace mneme {

// P(w | h) = (c(hw) − D) / c(h) + λ(h) P(w | h without its oldest id), where D depends on c(hw) =
// 1, 2, 3 or more and on the order, in closed form from how many n-grams the training text has
// once, twice, three and four times (Chen and Goodman, "An empirical study of smoothing
// techniques", 1999, section 3); below order 1 lies the uniform distribution.
struct NgramBaseline {
  // [order − 1]: held-out cross-entropy of the model of that order, nats a predicted id. Order 1 is
  // the unigram.
  std::vector<double> nats;
  // The same where the lower orders count in how many different contexts an n-gram stands, not how
  // often (Kneser and Ney, 1995): the harder one to beat.
  std::vector<double> kneser_ney;
  int64_t trained_on = 0;  // ids counted
  int64_t scored_on =
      0;  // ids predicted: all but each document's first, as training under `reset` counts them
};

// InvalidArgument unless both corpora have the byte vocabulary and 1 ≤ max_order ≤ 7. At most the
// first `max_train` ids are counted. Context never crosses a document's begin. Memory: about 50
// bytes a distinct n-gram.
absl::StatusOr<NgramBaseline> FitNgrams(const Corpus& train, const Corpus& held_out,
                                        int64_t max_order, int64_t max_train = int64_t{1} << 26);

}  // namespace mneme
