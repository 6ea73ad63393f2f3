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

class SampleOrder {
 public:
  // tokens: of each corpus; weights: share of each ([]: by tokens). Each pass over a corpus is a
  // new keyed permutation of its samples; the mixture is exact over every block of 1,024 samples,
  // as nearly as integers allow, and in the long run. REQUIRES: every corpus has at least
  // sequence_length + 1 tokens.
  SampleOrder(std::vector<int64_t> tokens, std::vector<double> weights, int64_t sequence_length,
              uint64_t seed);
  SamplePlace At(int64_t sample) const;
  int64_t samples(int64_t corpus) const;  // in one pass

 private:
  std::vector<int64_t> samples_;
  std::vector<double> weights_;
  int64_t sequence_length_;
  uint64_t seed_;
};

}  // namespace mneme
