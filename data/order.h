// Pure: global sample number -> place in the data. The loader's state is this number.
#pragma once

#include <cstdint>
#include <vector>

namespace mneme {

// A sample is sequence_length + 1 consecutive ids of one corpus; samples start at multiples of
// sequence_length.
struct SamplePlace {
  int64_t corpus = 0;
  int64_t begin = 0;  // first token
  int64_t epoch = 0;  // times the corpus was gone through before
};

// Each pass over a corpus is a new keyed permutation of its samples: within a pass every sample
// comes exactly once.
//
// Mixture: weights are rounded to multiples of 2⁻²⁰ (a positive weight to at least one). Sample
// numbers are dealt in blocks of 1,024. In every block a corpus of weight w has ⌊1,024 w⌋ or ⌈1,024
// w⌉ samples, at keyed random places that are nearly the same in all blocks; over 1,024 blocks it
// has exactly 2²⁰ w. A corpus's own samples come in the order of its passes: one is over before the
// next begins.
class SampleOrder {
 public:
  // tokens: of each corpus; weights: share of each, any positive scale ([]: by samples, so that all
  // corpora are gone through equally often). REQUIRES: every corpus has at least sequence_length +
  // 1 tokens; weights ≥ 0, not all 0.
  SampleOrder(std::vector<int64_t> tokens, std::vector<double> weights, int64_t sequence_length,
              uint64_t seed);
  // REQUIRES: sample ≥ 0.
  SamplePlace At(int64_t sample) const;
  int64_t samples(int64_t corpus) const;  // in one pass

 private:
  void DealBlocks(const std::vector<int64_t>& quota);

  std::vector<int64_t> samples_;
  // [corpus][block 0 … 1,024]: samples of the corpus in the blocks before, of one cycle of 1,024
  // blocks.
  std::vector<std::vector<int64_t>> before_;
  std::vector<int64_t>
      slots_;  // [1,024] keyed permutation: which slot of its block a sample number takes
  int64_t sequence_length_;
  uint64_t seed_;
};

}  // namespace mneme
