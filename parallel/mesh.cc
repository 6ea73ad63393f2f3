#include "parallel/mesh.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// Members of one colour, by rank.
std::unique_ptr<Comm> Part(World& world, Comm& all, int size, int color, Axis axis) {
  return size == 1 ? MakeSoloComm() : all.Split(color, world.rank(), axis);
}

}  // namespace

Mesh MakeMesh(World& world, const Layout& layout, const Device& device) {
  CHECK_EQ(layout.world, world.size());
  const int rank = world.rank();
  Mesh mesh;
  mesh.layout = layout;
  mesh.rank = rank;
  mesh.ranks_on_host = 0;
  for (const std::string& host : world.AllGather(world.host())) {
    mesh.ranks_on_host += host == world.host() ? 1 : 0;
  }
  mesh.world = world.MakeComm(device, layout.peer);
  Comm& all = *mesh.world;
  const auto part = [&](int size, int color, Axis axis) {
    return Part(world, all, size, color, axis);
  };
  mesh.expert = part(layout.expert, layout.expert_replica(rank), Axis::kExpert);
  mesh.expert_replicas =
      part(layout.expert_replicas(), layout.expert_coordinate(rank), Axis::kExpertReplicas);
  mesh.memory = part(layout.memory, layout.memory_replica(rank), Axis::kMemory);
  mesh.memory_replicas =
      part(layout.memory_replicas(), layout.memory_coordinate(rank), Axis::kMemoryReplicas);
  return mesh;
}

std::string ShareMemory(Mesh& mesh, Stream& stream) {
  const auto told = [](Axis axis, int replica, const std::string& why) {
    return why.empty() ? why
                       : absl::StrCat("group ", replica, " of the ", Name(axis), " axis: ", why);
  };
  const Layout& layout = mesh.layout;
  const std::string expert =
      told(Axis::kExpert, layout.expert_replica(mesh.rank), mesh.expert->ShareMemory(&stream));
  const std::string memory =
      told(Axis::kMemory, layout.memory_replica(mesh.rank), mesh.memory->ShareMemory(&stream));
  return expert.empty() ? memory : expert;
}

}  // namespace mneme
