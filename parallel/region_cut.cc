#include "parallel/region_cut.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// First stretch of each part where no part may cost more than `limit`, each taking as many as it
// can. Empty where `parts` are not enough. REQUIRES: no stretch costs more than `limit`.
std::vector<size_t> FirstOfParts(absl::Span<const Stretch> stretches, int parts, int64_t limit) {
  std::vector<size_t> first{0};
  int64_t cost = 0;
  for (size_t i = 0; i < stretches.size(); ++i) {
    if (cost + stretches[i].cost > limit) {
      first.push_back(i);
      cost = 0;
    }
    cost += stretches[i].cost;
  }
  if (static_cast<int>(first.size()) > parts) return {};
  first.resize(static_cast<size_t>(parts), stretches.size());
  return first;
}

std::vector<int64_t> CountsOf(const std::vector<int64_t>& begins, int64_t total) {
  std::vector<int64_t> counts;
  for (size_t p = 0; p < begins.size(); ++p) {
    counts.push_back((p + 1 < begins.size() ? begins[p + 1] : total) - begins[p]);
  }
  return counts;
}

}  // namespace

std::vector<int64_t> CutByCost(absl::Span<const Stretch> stretches, int64_t total, int parts) {
  CHECK_GT(parts, 0);
  int64_t low = 0;
  int64_t high = 0;
  for (const Stretch& s : stretches) {
    low = std::max(low, s.cost);
    high += s.cost;
  }
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (FirstOfParts(stretches, parts, middle).empty()) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  std::vector<int64_t> begins;
  for (size_t first : FirstOfParts(stretches, parts, high)) {
    begins.push_back(first < stretches.size() ? stretches[first].begin : total);
  }
  begins[0] = 0;
  return CountsOf(begins, total);
}

std::vector<int64_t> CutByElements(absl::Span<const Stretch> stretches, int64_t total, int parts) {
  CHECK_GT(parts, 0);
  std::vector<int64_t> begins{0};
  size_t at = 0;
  for (int p = 1; p < parts; ++p) {
    const int64_t wanted = total / parts * p + total % parts * p / parts;
    while (at + 1 < stretches.size() && stretches[at + 1].begin <= wanted) ++at;
    int64_t cut = total;
    if (at < stretches.size()) {
      const Stretch& s = stretches[at];
      const int64_t end = at + 1 < stretches.size() ? stretches[at + 1].begin : total;
      const int64_t rows = (std::max<int64_t>(0, wanted - s.begin) + s.row / 2) / s.row;
      cut = rows >= s.elements / s.row ? end : s.begin + rows * s.row;
    }
    begins.push_back(std::max(cut, begins.back()));
  }
  return CountsOf(begins, total);
}

}  // namespace mneme
