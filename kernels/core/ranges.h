// Parts of one stretch of memory: which are free. Numbers only; the memory is somebody else's.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>

namespace mneme {

// Takes the smallest hole that is large enough, the lowest of several, and what lies behind all
// that is in use only where no hole will do; neighbours that are free again become one. So the same
// sequence of requests gets the same places, however long the stretch is, and once all is given
// back the stretch is as at the start. Not thread-safe.
class Ranges {
 public:
  explicit Ranges(int64_t size) : size_(size) {}

  // The place of `bytes`, or −1 where they find no room. REQUIRES: bytes > 0.
  int64_t Take(int64_t bytes);
  // REQUIRES: they were taken, as one.
  void Give(int64_t place, int64_t bytes);
  // The most of the stretch, from its beginning, that was ever in use.
  int64_t high() const { return high_; }

 private:
  void Insert(int64_t place, int64_t bytes);
  void Erase(std::map<int64_t, int64_t>::iterator hole);

  const int64_t size_;
  std::map<int64_t, int64_t> by_place_;            // holes, none of which reaches end_: bytes
  std::set<std::pair<int64_t, int64_t>> by_size_;  // the same: (bytes, place)
  int64_t end_ = 0;                                // of what is in use
  int64_t high_ = 0;
};

}  // namespace mneme
