#include "kernels/core/ranges.h"

#include <algorithm>
#include <iterator>

#include "kernels/core/check.h"

namespace mneme {

void Ranges::Insert(int64_t place, int64_t bytes) {
  by_place_.emplace(place, bytes);
  by_size_.emplace(bytes, place);
}

void Ranges::Erase(std::map<int64_t, int64_t>::iterator hole) {
  by_size_.erase({hole->second, hole->first});
  by_place_.erase(hole);
}

int64_t Ranges::Take(int64_t bytes) {
  CHECK_GT(bytes, 0);
  const auto best = by_size_.lower_bound({bytes, 0});
  if (best != by_size_.end()) {
    const auto [size, place] = *best;
    Erase(by_place_.find(place));
    if (size > bytes) Insert(place + bytes, size - bytes);
    return place;
  }
  if (bytes > size_ - end_) return -1;
  const int64_t place = end_;
  end_ += bytes;
  high_ = std::max(high_, end_);
  return place;
}

void Ranges::Give(int64_t place, int64_t bytes) {
  CHECK_LE(place + bytes, end_);
  const auto next = by_place_.lower_bound(place);
  CHECK(next == by_place_.end() || next->first >= place + bytes);
  if (next != by_place_.begin()) {
    const auto before = std::prev(next);
    CHECK_LE(before->first + before->second, place);
    if (before->first + before->second == place) {
      place = before->first;
      bytes += before->second;
      Erase(before);
    }
  }
  if (next != by_place_.end() && next->first == place + bytes) {
    bytes += next->second;
    Erase(next);
  }
  if (place + bytes == end_) {
    end_ = place;
  } else {
    Insert(place, bytes);
  }
}

}  // namespace mneme
