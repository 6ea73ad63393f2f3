#include "parallel/reduce.h"

namespace mneme {
namespace {

// The ranks that hold the same values of a region.
Comm& ReplicasOf(Mesh& mesh, const Region& region) {
  return region.view == View::kDense ? *mesh.world : *mesh.expert_replicas;
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
    for (Tensor* whole : {&region->value, &region->copy}) {
      if (!whole->defined()) continue;
      const Tensor owned = whole->Flat(region->owned.begin, region->owned.end);
      replicas.AllGather(stream, owned, region->counts, *whole);
    }
  }
}

}  // namespace mneme
