// A Layout made real: one Comm an axis.
#pragma once

#include <memory>

#include "parallel/comm.h"
#include "parallel/layout.h"
#include "parallel/world.h"

namespace mneme {

// An axis of size 1 still has a Comm: no layer asks how large an axis is.
struct Mesh {
  Layout layout;
  std::unique_ptr<Comm> world;            // all ranks
  std::unique_ptr<Comm> expert;           // the ranks of one replica of the experts
  std::unique_ptr<Comm> expert_replicas;  // the ranks that hold the same experts
  std::unique_ptr<Comm> memory;           // the ranks of one replica of the tables
  std::unique_ptr<Comm> memory_replicas;  // the ranks that hold the same rows
};

Mesh MakeMesh(World& world, const Layout& layout);

}  // namespace mneme
