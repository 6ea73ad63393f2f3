#include "data/order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

constexpr int64_t kBlock = 1024;             // samples
constexpr int64_t kCycle = 1024;             // blocks
constexpr int64_t kUnits = kBlock * kCycle;  // a weight is a whole number of these parts

// Whole numbers with the sum kUnits, as near as can be to the weights; positive weights get at
// least 1.
std::vector<int64_t> Quotas(const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  CHECK(sum > 0.0);
  std::vector<int64_t> quota(weights.size());
  std::vector<double> rest(weights.size());
  for (size_t c = 0; c < weights.size(); ++c) {
    CHECK(weights[c] >= 0.0);
    const double exact = weights[c] / sum * static_cast<double>(kUnits);
    quota[c] = static_cast<int64_t>(std::floor(exact));
    rest[c] = exact - static_cast<double>(quota[c]);
    if (quota[c] == 0 && weights[c] > 0.0) {
      quota[c] = 1;
      rest[c] = 0.0;
    }
  }
  int64_t missing = kUnits - std::accumulate(quota.begin(), quota.end(), int64_t{0});
  for (; missing > 0; --missing) {
    const auto most = std::max_element(rest.begin(), rest.end());
    ++quota[static_cast<size_t>(most - rest.begin())];
    *most -= 1.0;
  }
  for (; missing < 0; ++missing) --*std::max_element(quota.begin(), quota.end());
  return quota;
}

// Bits 0 to 9 of b in reverse: blocks of a cycle take their turns evenly spread.
int64_t ReverseBits(int64_t b) {
  int64_t reversed = 0;
  for (int bit = 0; bit < 10; ++bit) reversed |= ((b >> bit) & 1) << (9 - bit);
  return reversed;
}

}  // namespace

SampleOrder::SampleOrder(std::vector<int64_t> tokens, std::vector<double> weights,
                         int64_t sequence_length, uint64_t seed)
    : sequence_length_(sequence_length), seed_(seed) {
  CHECK_GT(sequence_length, 0);
  CHECK(!tokens.empty());
  for (const int64_t count : tokens) {
    CHECK_GT(count, sequence_length);
    samples_.push_back((count - 1) / sequence_length);
  }
  if (weights.empty()) weights.assign(samples_.begin(), samples_.end());
  CHECK_EQ(weights.size(), tokens.size());
  DealBlocks(Quotas(weights));
  const RandomKey mixture = MakeKey(seed, "data.mixture");
  for (int64_t i = 0; i < kBlock; ++i) slots_.push_back(Permute(mixture, i, kBlock));
}

// Systematic sampling: with the quotas laid end to end on a line, and marks at every kCycle units,
// shifted by another phase in each block, a corpus has as many samples in a block as marks fall on
// its stretch. Every block has kBlock marks, a stretch of q units gets ⌊q / kCycle⌋ or one more,
// and over all phases exactly q.
void SampleOrder::DealBlocks(const std::vector<int64_t>& quota) {
  before_.assign(quota.size(), std::vector<int64_t>(kCycle + 1, 0));
  for (int64_t block = 0; block < kCycle; ++block) {
    const int64_t phase = ReverseBits(block);
    int64_t end = 0;
    for (size_t c = 0; c < quota.size(); ++c) {
      const int64_t marks_before = (end + phase) / kCycle;
      end += quota[c];
      const int64_t marks = (end + phase) / kCycle - marks_before;
      before_[c][static_cast<size_t>(block) + 1] = before_[c][static_cast<size_t>(block)] + marks;
    }
  }
}

SamplePlace SampleOrder::At(int64_t sample) const {
  CHECK_GE(sample, 0);
  const int64_t block = sample / kBlock;
  const int64_t cycle = block / kCycle;
  const size_t turn = static_cast<size_t>(block % kCycle);
  const auto place = static_cast<size_t>(sample % kBlock);
  // The corpus's stretch of slots, [low, high), and how many of its samples this block had before.
  int64_t low = 0;
  size_t corpus = 0;
  int64_t high = 0;
  for (;; ++corpus, low = high) {
    high = low + before_[corpus][turn + 1] - before_[corpus][turn];
    if (slots_[place] < high) break;
  }
  int64_t rank = 0;
  for (size_t i = 0; i < place; ++i) rank += low <= slots_[i] && slots_[i] < high ? 1 : 0;
  const int64_t number = cycle * before_[corpus][kCycle] + before_[corpus][turn] + rank;
  const int64_t epoch = number / samples_[corpus];
  const RandomKey pass =
      MakeKey(seed_, "data.corpus." + std::to_string(corpus) + ".epoch." + std::to_string(epoch));
  const int64_t index = Permute(pass, number % samples_[corpus], samples_[corpus]);
  return {
      .corpus = static_cast<int64_t>(corpus), .begin = index * sequence_length_, .epoch = epoch};
}

int64_t SampleOrder::samples(int64_t corpus) const { return samples_[static_cast<size_t>(corpus)]; }

}  // namespace mneme
