#include "parallel/reduce.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// The ranks that hold the same values of a region.
Comm& ReplicasOf(Mesh& mesh, const Region& region) {
  return region.view == View::kDense ? *mesh.world : *mesh.expert_replicas;
}

// What of a range of a region each member owns.
struct Owned {
  std::vector<int64_t> counts;
  Range mine;
};

Owned OwnedOf(const Region& region, Range range) {
  Owned owned;
  int64_t begin = 0;
  for (const int64_t count : region.counts) {
    const int64_t first = std::clamp(begin, range.begin, range.end);
    begin += count;
    owned.counts.push_back(std::clamp(begin, range.begin, range.end) - first);
  }
  owned.mine = {std::clamp(region.owned.begin, range.begin, range.end),
                std::clamp(region.owned.end, range.begin, range.end)};
  return owned;
}

}  // namespace

std::vector<GradientBucket> BucketsOf(Region& region, int64_t bytes) {
  std::vector<GradientBucket> buckets;
  int64_t end = region.elements;
  GradientBucket bucket;
  for (size_t i = region.parameters.size(); i-- > 0;) {
    Parameter* parameter = region.parameters[i];
    bucket.parameters.push_back(parameter);
    const int64_t begin = parameter->region_offset;
    if (i > 0 && (end - begin) * SizeOf(region.grad.dtype()) < bytes) continue;
    bucket.region = &region;
    bucket.range = {begin, end};
    buckets.push_back(std::exchange(bucket, {}));
    end = begin;
  }
  return buckets;
}

GradientReduction::GradientReduction(Mesh& mesh, ParameterStore& store, int64_t bucket_bytes)
    : mesh_(mesh) {
  for (Region* region : store.regions()) {
    if (ReplicasOf(mesh, *region).size() == 1) continue;
    for (GradientBucket& bucket : BucketsOf(*region, bucket_bytes)) {
      for (const Parameter* parameter : bucket.parameters) bucket_of_[parameter] = buckets_.size();
      const size_t parameters = bucket.parameters.size();
      buckets_.push_back({std::move(bucket), parameters});
    }
  }
}

void GradientReduction::Final(Stream& stream, absl::Span<Parameter* const> parameters) {
  for (const Parameter* parameter : parameters) {
    const auto place = bucket_of_.find(parameter);
    if (place == bucket_of_.end()) continue;
    Bucket& bucket = buckets_[place->second];
    CHECK_GT(bucket.awaited, size_t{0});
    if (--bucket.awaited == 0) SetOut(stream, bucket);
  }
}

void GradientReduction::Finish(Stream& stream) {
  for (Bucket& bucket : buckets_) {
    if (!bucket.gone) SetOut(stream, bucket);
    bucket.awaited = bucket.what.parameters.size();
    bucket.gone = false;
  }
  // The last first: there is no waiting for the others then.
  while (!jobs_.empty()) jobs_.pop_back();
}

void GradientReduction::SetOut(Stream& stream, Bucket& bucket) {
  Region& region = *bucket.what.region;
  Comm& replicas = ReplicasOf(mesh_, region);
  const Range range = bucket.what.range;
  jobs_.push_back(SideJob::Run(stream, {}, [&](Stream& side) {
    const auto [counts, mine] = OwnedOf(region, range);
    Tensor sum = region.grad.Flat(mine.begin, mine.end);
    replicas.ReduceScatter(side, region.grad.Flat(range.begin, range.end), counts, sum);
  }));
  bucket.gone = true;
}

SideJob GatherRead(Stream& stream, Mesh& mesh, Region& region) {
  Comm& replicas = ReplicasOf(mesh, region);
  if (replicas.size() == 1 || region.elements == 0) return {};
  return SideJob::Run(stream, {}, [&](Stream& side) {
    const Tensor mine = region.read.Flat(region.owned.begin, region.owned.end);
    replicas.AllGather(side, mine, region.counts, region.read);
  });
}

}  // namespace mneme
