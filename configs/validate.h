// Rules across sections, all faults at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "configs/run.h"

namespace mneme {

// Tokens of a sequence, and sequences of a batch: far beyond any run, and so small that sums of
// their products stay countable.
inline constexpr int64_t kMostSequence = int64_t{1} << 30;

// A rule that is broken: the keys that it speaks of, the one to change first, and what is wrong
// with which numbers.
struct Fault {
  std::vector<std::string> keys;
  std::string what;
};

// Arithmetic that needs no data and no machine: layer lists inside the depth, d_mem divisible by
// orders x heads, top_k against experts and groups, even rotary width, decay lists, stages ...
std::vector<Fault> FindFaults(const RunConfig& config);
// What a run on `world` ranks also needs: corpora and steps, axes that divide the world, batches
// that can be dealt.
std::vector<Fault> FindWorldFaults(const RunConfig& config, int world);
// "file:line: key: what": the place of the first of its keys that was stated, "defaults" if none
// was.
std::string FaultText(const RunConfig& config, const Fault& fault);

// The same as a status: InvalidArgument with a line a fault.
absl::Status Validate(const RunConfig& config);
absl::Status ValidateForWorld(const RunConfig& config, int world);

}  // namespace mneme
