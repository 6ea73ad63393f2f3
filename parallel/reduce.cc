#include "parallel/reduce.h"

#include <algorithm>
#include <vector>

namespace mneme {
namespace {

// The ranks that hold the same values of a region.
Comm& ReplicasOf(Mesh& mesh, const Region& region) {
  return region.view == View::kDense ? *mesh.world : *mesh.expert_replicas;
}

// More stretches than that are gathered with all that lies between them.
constexpr size_t kMostStretches = 16;

// Of a region with copies, what is read accurately; neighbours in one.
std::vector<Range> AccurateStretches(const Region& region) {
  std::vector<Range> stretches;
  bool before = false;
  for (const Parameter* parameter : region.parameters) {
    const bool accurate = parameter->reading == Reading::kAccurate;
    const Range here = {parameter->region_offset,
                        parameter->region_offset + parameter->shape.elements()};
    if (accurate && before) stretches.back().end = here.end;
    if (accurate && !before) stretches.push_back(here);
    before = accurate;
  }
  if (stretches.size() > kMostStretches) {
    return {{stretches.front().begin, stretches.back().end}};
  }
  return stretches;
}

// What each member owns of `range` to all.
void Gather(Stream& stream, Comm& replicas, const Region& region, Range range, Tensor& whole) {
  std::vector<int64_t> counts;
  Range mine;
  int64_t begin = 0;
  for (size_t r = 0; r < region.counts.size(); ++r) {
    const int64_t first = std::clamp(begin, range.begin, range.end);
    begin += region.counts[r];
    const int64_t last = std::clamp(begin, range.begin, range.end);
    counts.push_back(last - first);
    if (static_cast<int>(r) == replicas.rank()) mine = {first, last};
  }
  Tensor all = whole.Flat(range.begin, range.end);
  replicas.AllGather(stream, whole.Flat(mine.begin, mine.end), counts, all);
}

void GatherWhole(Stream& stream, Comm& replicas, const Region& region, Tensor& whole) {
  Gather(stream, replicas, region, {0, whole.elements()}, whole);
}

}  // namespace

void ReduceGradients(Stream& stream, Mesh& mesh, ParameterStore& store) {
  for (Region* region : store.regions()) {
    Comm& replicas = ReplicasOf(mesh, *region);
    if (replicas.size() == 1 || region->grad.elements() == 0) continue;
    Tensor owned = region->grad.Flat(region->owned.begin, region->owned.end);
    replicas.ReduceScatter(stream, region->grad, region->counts, owned);
  }
}

void GatherValues(Stream& stream, Mesh& mesh, ParameterStore& store) {
  for (Region* region : store.regions()) {
    Comm& replicas = ReplicasOf(mesh, *region);
    if (replicas.size() == 1 || region->value.elements() == 0) continue;
    GatherWhole(stream, replicas, *region, region->value);
    if (region->copy.defined()) GatherWhole(stream, replicas, *region, region->copy);
  }
}

void GatherRead(Stream& stream, Mesh& mesh, ParameterStore& store) {
  for (Region* region : store.regions()) {
    Comm& replicas = ReplicasOf(mesh, *region);
    if (replicas.size() == 1 || region->value.elements() == 0) continue;
    if (!region->copy.defined()) {
      GatherWhole(stream, replicas, *region, region->value);
      continue;
    }
    GatherWhole(stream, replicas, *region, region->copy);
    for (const Range& stretch : AccurateStretches(*region)) {
      Gather(stream, replicas, *region, stretch, region->value);
    }
  }
}

}  // namespace mneme
