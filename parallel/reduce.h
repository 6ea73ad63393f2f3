// Gradients to their owners, updated weights back.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/side.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace mneme {

// Parameters that stand next to each other in a region and are summed as one call.
struct GradientBucket {
  Region* region = nullptr;
  Range range;                         // of the region
  std::vector<Parameter*> parameters;  // whole ones
};

// Cuts a region from its end, whose gradients are the first that backward finishes: no bucket can
// do with a parameter less and still have `bytes`, but for what is left at the front.
std::vector<GradientBucket> BucketsOf(Region& region, int64_t bytes);

// Sums each region's gradients over its replica group (dense: world, experts: expert replicas): at
// the end this rank's owned range of region.grad holds the sum, other ranges are unspecified. The
// sums are those of Comm::ReduceScatter, of the same parts whenever they set out.
//
// A bucket sets out beside the stream (kernels/core/side.h) as soon as a step's gradients of it are
// final, so under the rest of backward. Borrows mesh and store; one a store that is allocated.
class GradientReduction {
 public:
  static constexpr int64_t kBucketBytes = int64_t{16} << 20;

  GradientReduction(Mesh& mesh, ParameterStore& store, int64_t bucket_bytes = kBucketBytes);

  // The stream was given the last work on these parameters' gradients in this step. Each at most
  // once a step; those nobody tells of set out in Finish. Collective.
  void Final(Stream& stream, absl::Span<Parameter* const> parameters);
  // The rest, and the stream goes on with the sums. Ready for the next step. Collective.
  void Finish(Stream& stream);

 private:
  struct Bucket {
    GradientBucket what;
    size_t awaited = 0;  // parameters that are not final
    bool gone = false;
  };

  void SetOut(Stream& stream, Bucket& bucket);

  Mesh& mesh_;
  std::vector<Bucket> buckets_;  // of groups of several
  std::unordered_map<const Parameter*, size_t> bucket_of_;
  std::vector<SideJob> jobs_;  // of the buckets that set out
};

// What kernels read of a region, from the owner of each range to all members of the group: all that
// a step needs, since masters stay with their owners. Beside the stream.
SideJob GatherRead(Stream& stream, Mesh& mesh, Region& region);

}  // namespace mneme
