// Rows that change hands, counted on the host: what the exchanges share.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/arrival.h"
#include "parallel/comm.h"
#include "parallel/layout.h"

namespace mneme {

static_assert((int64_t{2} * kMostAxis + 1) * 2 * int64_t{sizeof(int64_t)} <= Driver::kMostSent,
              "the counts of ReadCounts are one message");

int64_t Total(const std::vector<int64_t>& counts);

// The first Σ send rows of `in` [n] or [n, W] to the members, in their order; Σ recv rows come
// back.
Tensor Carry(Stream& stream, Comm& axis, const Tensor& in, const std::vector<int64_t>& send,
             const std::vector<int64_t>& recv);

// Counts i64 [2, members, each] that were exchanged on the device: for each member and from each;
// and `more` numbers behind them. The host waits for them, and shows it. each and more: at most 2.
std::vector<int64_t> ReadCounts(Comm& axis, Arrival& counts, int64_t each, int64_t more = 0);

}  // namespace mneme
