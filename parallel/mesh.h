// A Layout made real: one Comm an axis.
#pragma once

#include <memory>
#include <string>

#include "parallel/comm.h"
#include "parallel/layout.h"
#include "parallel/world.h"

namespace mneme {

// An axis of size 1 still has a Comm: no layer asks how large an axis is. Owned by main's run; gone
// before its World.
struct Mesh {
  Layout layout;
  int rank = 0;
  int ranks_on_host = 1;                  // that share this host's memory, this one included
  std::unique_ptr<Comm> world;            // all ranks
  std::unique_ptr<Comm> expert;           // the ranks of one replica of the experts
  std::unique_ptr<Comm> expert_replicas;  // the ranks that hold the same experts
  std::unique_ptr<Comm> memory;           // the ranks of one replica of the tables
  std::unique_ptr<Comm> memory_replicas;  // the ranks that hold the same rows
};

// For tensors of `device`, this rank's. Collective: groups are made in order of the members above.
// REQUIRES: layout.world is the world's size.
Mesh MakeMesh(World& world, const Layout& layout, const Device& device = {});

// Comm::ShareMemory on the axes that rows and tokens travel on; a reason begins with its group.
// The stream's pool outlives the mesh.
std::string ShareMemory(Mesh& mesh, Stream& stream);

}  // namespace mneme
