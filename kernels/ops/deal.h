// Tokens dealt to the ranks that own their experts.
#pragma once

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace mneme {

inline constexpr int kMostOwners = 64;

// Owner d has the experts [starts[d], starts[d + 1]). experts i32 [T, K], weights [T, K]. A token
// goes once to each owner of any of its experts. counts i64 [owners, 2]: rows for each owner, and
// their (token, expert) pairs. In the first Σ rows of the others, by owner and rising in tokens:
// sent i32 [S], whose token it is; sent_experts i32 [S, K] the owner's own numbers of its experts,
// −1 for those of others; sent_weights [S, K] their weights, 0 for those of others. REQUIRES: S >=
// T · min(K, owners).
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
