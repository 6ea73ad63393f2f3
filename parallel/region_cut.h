// Pure arithmetic: a flat region cut into one contiguous range a member of its replica group.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace mneme {

// A stretch of a region that may be cut only at multiples of `row` elements from its begin.
// Stretches stand in order; gaps between them belong to the stretch before.
struct Stretch {
  int64_t begin = 0;     // element of the region
  int64_t elements = 0;  // a multiple of row
  int64_t row = 1;       // row == elements: never cut
  int64_t cost = 0;      // of the update, in any unit
};

// Elements of each of `parts` ranges of [0, total); cuts at the begins of stretches only, so that
// the largest cost of a range is as small as contiguous ranges allow.
std::vector<int64_t> CutByCost(absl::Span<const Stretch> stretches, int64_t total, int parts);

// The same with cuts at rows too, as near to equal numbers of elements as rows allow; costs are
// ignored.
std::vector<int64_t> CutByElements(absl::Span<const Stretch> stretches, int64_t total, int parts);

}  // namespace mneme
