#include "parallel/mesh.h"

#include <string>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// Members of one colour, by rank.
std::unique_ptr<Comm> Axis(World& world, Comm& all, int size, int color) {
  return size == 1 ? MakeSoloComm() : all.Split(color, world.rank());
}

}  // namespace

Mesh MakeMesh(World& world, const Layout& layout) {
  CHECK_EQ(layout.world, world.size());
  const int rank = world.rank();
  Mesh mesh;
  mesh.layout = layout;
  mesh.rank = rank;
  mesh.ranks_on_host = 0;
  for (const std::string& host : world.AllGather(world.host())) {
    mesh.ranks_on_host += host == world.host() ? 1 : 0;
  }
  mesh.world = world.MakeComm();
  Comm& all = *mesh.world;
  mesh.expert = Axis(world, all, layout.expert, layout.expert_replica(rank));
  mesh.expert_replicas = Axis(world, all, layout.expert_replicas(), layout.expert_coordinate(rank));
  mesh.memory = Axis(world, all, layout.memory, layout.memory_replica(rank));
  mesh.memory_replicas = Axis(world, all, layout.memory_replicas(), layout.memory_coordinate(rank));
  return mesh;
}

}  // namespace mneme
