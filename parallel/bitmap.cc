#include "parallel/bitmap.h"

#include <algorithm>
#include <bit>

#include "kernels/core/check.h"

namespace mneme {

void Bitmap::Assign(const std::vector<uint32_t>& words) {
  CHECK_LE(words.size(), 2 * words_.size());
  std::fill(words_.begin(), words_.end(), uint64_t{0});
  count_ = 0;
  counted_ = false;
  for (size_t i = 0; i < words.size(); ++i) {
    words_[i / 2] |= uint64_t{words[i]} << (i % 2 * 32);
    count_ += std::popcount(words[i]);
  }
}

void Bitmap::List(int64_t begin, int64_t end, int64_t* out) {
  CHECK(begin >= 0 && begin <= end && end <= count_);
  if (begin == end) return;
  CountBlocks();
  const auto block = std::upper_bound(before_.begin(), before_.end(), begin) - before_.begin() - 1;
  int64_t k = before_[static_cast<size_t>(block)];
  for (size_t w = static_cast<size_t>(block * kBlockWords); k < end; ++w) {
    for (uint64_t word = words_[w]; word != 0 && k < end; word &= word - 1, ++k) {
      if (k >= begin) *out++ = static_cast<int64_t>(w) * kWord + std::countr_zero(word);
    }
  }
}

void Bitmap::CountBlocks() {
  if (counted_) return;
  before_.clear();
  int64_t count = 0;
  for (size_t w = 0; w < words_.size(); ++w) {
    if (w % kBlockWords == 0) before_.push_back(count);
    count += std::popcount(words_[w]);
  }
  counted_ = true;
}

}  // namespace mneme
