#include "parallel/layout.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/peer.h"

namespace mneme {
namespace {

// "1, 2, 3, 6"
std::string Divisors(int64_t n) {
  std::string out;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) out += (out.empty() ? "" : ", ") + std::to_string(d);
  }
  return out;
}

// Largest divisor of n that is <= limit.
int64_t LargestDivisor(int64_t n, int64_t limit) {
  for (int64_t d = std::min(n, limit); d > 1; --d) {
    if (n % d == 0) return d;
  }
  return 1;
}

// Empty where `degree` is legal; otherwise a line that says why not.
std::string AxisFault(const char* key, int64_t degree, int world) {
  if (degree >= 0 && (degree == 0 || world % degree == 0)) {
    const int64_t ranks = degree == 0 ? world : degree;
    if (ranks <= kMostAxis) return "";
    return std::string(key) + ": an axis has at most " + std::to_string(kMostAxis) +
           " ranks, and this one " + std::to_string(ranks) + "; the largest legal value here is " +
           std::to_string(LargestDivisor(world, kMostAxis)) + "\n";
  }
  return std::string(key) + ": " + std::to_string(degree) + " does not divide the " +
         std::to_string(world) + " ranks of this run; legal values: " + Divisors(world) +
         ", or 0 for all ranks\n";
}

// Smallest divisor of n that is >= limit. REQUIRES: limit <= n.
int64_t DivisorFrom(int64_t n, int64_t limit) {
  while (n % limit != 0) ++limit;
  return limit;
}

// "a", or "a or b" where both ends are legal.
std::string Either(int64_t below, int64_t above, bool with_below, bool with_above) {
  if (with_below && with_above) return std::to_string(below) + " or " + std::to_string(above);
  return std::to_string(with_below ? below : above);
}

}  // namespace

Range PartOf(int64_t n, int parts, int part) {
  CHECK(n >= 0 && parts > 0 && part >= 0 && part < parts);
  const int64_t base = n / parts;
  const int64_t longer = n % parts;
  const int64_t begin = part * base + std::min<int64_t>(part, longer);
  return {begin, begin + base + (part < longer ? 1 : 0)};
}

int OwnerOf(int64_t n, int parts, int64_t i) {
  CHECK(i >= 0 && i < n);
  const int64_t base = n / parts;
  const int64_t longer = n % parts;
  const int64_t in_longer = longer * (base + 1);
  if (i < in_longer) return static_cast<int>(i / (base + 1));
  return static_cast<int>(longer + (i - in_longer) / base);
}

bool Layout::ByPeers(int axis) const {
  const bool one_host = ranks_per_host == 0 || ranks_per_host % axis == 0;
  return peer && axis > 1 && axis <= kMostPeers && one_host;
}

int RanksPerHost(const std::vector<std::string>& hosts_by_rank) {
  int block = 0, run = 0;
  for (size_t r = 0; r < hosts_by_rank.size(); ++r) {
    ++run;
    if (r + 1 < hosts_by_rank.size() && hosts_by_rank[r + 1] == hosts_by_rank[r]) continue;
    block = std::gcd(block, run);
    run = 0;
  }
  return block;
}

absl::StatusOr<Layout> MakeLayout(const ParallelConfig& config, int world) {
  CHECK_GT(world, 0);
  std::string faults = AxisFault("parallel.expert", config.expert, world) +
                       AxisFault("parallel.memory", config.memory, world);
  if (!faults.empty()) {
    faults.pop_back();
    return absl::InvalidArgumentError(faults);
  }
  const auto degree = [world](int64_t wanted) {
    return wanted == 0 ? world : static_cast<int>(wanted);
  };
  Layout layout{world, degree(config.expert), degree(config.memory), config.expert_room};
  layout.peer = config.transport == "peer" && (layout.expert > 1 || layout.memory > 1);
  return layout;
}

absl::StatusOr<BatchPlan> PlanBatch(int64_t sequences, int64_t micro_wanted, int world) {
  CHECK_GT(world, 0);
  if (sequences < 1 || micro_wanted < 1) {
    return absl::InvalidArgumentError("a batch of " + std::to_string(sequences) +
                                      " sequences in micro-batches of " +
                                      std::to_string(micro_wanted) + ": both must be at least 1");
  }
  if (sequences % world != 0) {
    const int64_t below = sequences / world * world;
    const bool fits = world <= sequences;
    return absl::InvalidArgumentError(
        "a batch of " + std::to_string(sequences) + " sequences cannot be dealt equally to " +
        std::to_string(world) + " ranks; nearest legal batch: " +
        Either(below, below + world, below > 0, true) + " sequences; nearest legal rank count: " +
        Either(LargestDivisor(sequences, world), fits ? DivisorFrom(sequences, world) : 0, true,
               fits));
  }
  BatchPlan plan;
  plan.sequences = sequences;
  plan.per_rank = sequences / world;
  plan.micro = LargestDivisor(plan.per_rank, micro_wanted);
  plan.accumulation = plan.per_rank / plan.micro;
  return plan;
}

}  // namespace mneme
