// Gradients to their owners, updated weights back.
#pragma once

#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace mneme {

// Sums each region's gradients over its replica group (dense: world, experts: expert replicas), in
// rank order; after it this rank's owned range of region.grad holds the sum (other ranges are
// unspecified).
void ReduceGradients(Stream& stream, Mesh& mesh, ParameterStore& store);
// Every rank's owned range of region.value, and of its rounded copy, to all members of the group.
void GatherValues(Stream& stream, Mesh& mesh, ParameterStore& store);
// The same for what kernels read, which is all that a step needs: where there are copies, accurate
// values stay with their owners but for those of parameters that are read accurately.
void GatherRead(Stream& stream, Mesh& mesh, ParameterStore& store);

}  // namespace mneme
