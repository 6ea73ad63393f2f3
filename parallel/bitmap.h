// Which rows of a table are materialised, with the way from "the k-th" to its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mneme {

// Of n places, all clear at first. One bit a place and, once listed, 8 bytes for each 4,096. Used
// by one thread.
class Bitmap {
 public:
  explicit Bitmap(int64_t n) : words_(static_cast<size_t>((n + kWord - 1) / kWord), 0) {}

  // Set stays set. REQUIRES: 0 <= i < n.
  void Set(int64_t i) {
    uint64_t& word = words_[static_cast<size_t>(i / kWord)];
    const uint64_t bit = uint64_t{1} << (i % kWord);
    if ((word & bit) != 0) return;
    word |= bit;
    ++count_;
    counted_ = false;
  }
  void SetAll(int64_t n) {
    for (int64_t i = 0; i < n; ++i) Set(i);
  }
  // Takes the bits of 32-bit words in place of its own: bit i % 32 of word i / 32. REQUIRES: none
  // beyond n is set.
  void Assign(const std::vector<uint32_t>& words);
  int64_t count() const { return count_; }
  int64_t bytes() const { return static_cast<int64_t>(words_.size() * sizeof(uint64_t)); }

  // out <- places of the set bits [begin, end), counted from the first, rising. REQUIRES: 0 <=
  // begin, begin <= end, end <= count().
  void List(int64_t begin, int64_t end, int64_t* out);

 private:
  static constexpr int64_t kWord = 64;
  static constexpr int64_t kBlockWords = 64;  // words counted together

  void CountBlocks();

  std::vector<uint64_t> words_;
  std::vector<int64_t> before_;  // set bits before each block of words
  int64_t count_ = 0;
  bool counted_ = false;
};

}  // namespace mneme
