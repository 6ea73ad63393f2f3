// Tokens dealt to the ranks that own their experts.
#pragma once

#include <algorithm>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace mneme {

inline constexpr int kMostOwners = 64;

// A GPU deals tokens by blocks of neighbours and keeps, as scratch, how many rows and pairs each
// owner gets of each: i32 [2, owners, DealBlocks]. So few blocks that each can add up all of them.
inline constexpr int64_t kDealTile = 256;  // tokens that a block takes at once
constexpr int64_t DealBlocks(int64_t tokens, int64_t owners) {
  const int64_t tiles = (tokens + kDealTile - 1) / kDealTile;
  const int64_t most = std::max<int64_t>(132, 2048 / owners);
  return std::min(tiles, most);
}

// Owner d has the experts [starts[d], starts[d + 1]); starts[0] is 0. experts i32 [T, K], weights
// [T, K]. A token goes once to each owner of any of its experts. counts i64 [owners, 2]: rows for
// each owner, and their (token, expert) pairs. In the first Σ rows of the others, by owner and
// rising in tokens: sent i32 [S], whose token it is; sent_experts i32 [S, K] the owner's own
// numbers of its experts, −1 for those of others; sent_weights [S, K] their weights, 0 for those of
// others. REQUIRES: S >= T · min(K, owners).
using DealTokensFn = void(Stream&, const Tensor& experts, const Tensor& weights,
                          absl::Span<const int64_t> starts, Tensor& sent, Tensor& sent_experts,
                          Tensor& sent_weights, Tensor& counts);

namespace cpu {
DealTokensFn DealTokens;
}  // namespace cpu
namespace gpu {
DealTokensFn DealTokens;
}  // namespace gpu

}  // namespace mneme
