// How a GPU cuts tokens that are dealt (kernels/ops/deal.h) into blocks: what its op takes as
// scratch, and a rehearsal (kernels/dry) therefore too.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mneme {

inline constexpr int64_t kDealTile = 256;  // tokens that a block takes at once

// Of the scratch, i32 [2, owners, DealBlocks]: rows and pairs of each owner among the tokens of
// each block. So few blocks that each can add up all of them. REQUIRES: tokens, owners > 0.
constexpr int64_t DealBlocks(int64_t tokens, int64_t owners) {
  const int64_t tiles = (tokens + kDealTile - 1) / kDealTile;
  return std::min(tiles, std::max<int64_t>(132, 2048 / owners));
}

}  // namespace mneme
