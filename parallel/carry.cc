#include "parallel/carry.h"

#include <numeric>

namespace mneme {

int64_t Total(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

Tensor Carry(Stream& stream, Comm& axis, const Tensor& in, const std::vector<int64_t>& send,
             const std::vector<int64_t>& recv) {
  const int64_t rows = Total(recv);
  const Shape shape = in.shape().rank() == 1 ? Shape{rows} : Shape{rows, in.dim(1)};
  Tensor out = Tensor::Empty(stream, in.dtype(), shape, MemoryTag::kExchange);
  axis.AllToAll(stream, in.Rows(0, Total(send)), send, out, recv);
  return out;
}

std::vector<int64_t> ReadCounts(Comm& axis, Arrival& counts, int64_t each, int64_t more) {
  std::vector<int64_t> both(static_cast<size_t>(2 * each * axis.size() + more));
  const auto bytes = static_cast<int64_t>(both.size() * sizeof(int64_t));
  const InFlight waiting = axis.Waiting(Collective::kAllToAll, bytes);
  counts.Wait(absl::MakeSpan(both));
  return both;
}

}  // namespace mneme
