// One suite, two ways to be many: as threads of one process (thread_ranks.cc), and as the processes
// of mpirun (mpi_main.cc), where every rank runs every test.
#pragma once

#include <functional>

#include "parallel/mesh.h"
#include "parallel/world.h"

namespace mneme {

// Runs body on worlds of every size that can be had: 1, 2, 3, 4 and 6 threads; the ranks of this
// mpirun.
void OnWorlds(const std::function<void(World&)>& body);

// Runs body on groups of 1, 2, 3, ... members of those worlds (ranks left over sit out).
void OnGroups(const std::function<void(Comm&)>& body);

// A CPU stream with a pool of its own.
struct TestStream {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
};

}  // namespace mneme
