#include "kernels/ops/deal.h"

#include <algorithm>
#include <vector>

#include "kernels/core/check.h"

namespace mneme::cpu {
namespace {

// The experts and weights of one token as an owner of [begin, end) sees them. How many are
// its own.
template <class T>
int64_t Localise(const int32_t* experts, const T* weights, int64_t k, int64_t begin, int64_t end,
                 int32_t* local, T* local_weights) {
  int64_t count = 0;
  for (int64_t j = 0; j < k; ++j) {
    const bool here = experts[j] >= begin && experts[j] < end;
    local[j] = here ? experts[j] - static_cast<int32_t>(begin) : -1;
    local_weights[j] = here ? weights[j] : T{0};
    count += here ? 1 : 0;
  }
  return count;
}

}  // namespace

void DealTokens(Stream&, const Tensor& experts, const Tensor& weights,
                absl::Span<const int64_t> starts, Tensor& sent, Tensor& sent_experts,
                Tensor& sent_weights, Tensor& counts) {
  const int64_t tokens = experts.dim(0);
  const int64_t k = experts.dim(1);
  const int64_t owners = counts.dim(0);
  CHECK_EQ(owners + 1, static_cast<int64_t>(starts.size()));
  CHECK_GE(sent.elements(), tokens * std::min(k, owners));
  DispatchReal(weights.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const int32_t* from = experts.data<int32_t>();
    const T* from_weights = weights.data<T>();
    std::vector<int32_t> local(static_cast<size_t>(k));
    std::vector<T> local_weights(static_cast<size_t>(k));
    int64_t row = 0;
    for (int64_t d = 0; d < owners; ++d) {
      const int64_t first = row;
      int64_t pairs = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t here =
            Localise(from + t * k, from_weights + t * k, k, starts[static_cast<size_t>(d)],
                     starts[static_cast<size_t>(d) + 1], local.data(), local_weights.data());
        if (here == 0) continue;
        pairs += here;
        sent.data<int32_t>()[row] = static_cast<int32_t>(t);
        std::copy(local.begin(), local.end(), sent_experts.data<int32_t>() + row * k);
        std::copy(local_weights.begin(), local_weights.end(), sent_weights.data<T>() + row * k);
        ++row;
      }
      counts.data<int64_t>()[2 * d] = row - first;
      counts.data<int64_t>()[2 * d + 1] = pairs;
    }
  });
}

}  // namespace mneme::cpu
