#include "parallel/world.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

// A text that differs in length and content from rank to rank; rank 0's is empty.
std::string TextOf(int rank) {
  return std::string(static_cast<size_t>(rank) * 1000, static_cast<char>('a' + rank));
}

TEST(World, BroadcastsAndGathersBytesOfAnyLength) {
  OnWorlds([](World& world) {
    for (int root = 0; root < world.size(); ++root) {
      EXPECT_EQ(world.Broadcast(TextOf(world.rank()), root), TextOf(root));
    }
    const std::vector<std::string> all = world.AllGather(TextOf(world.rank()));
    ASSERT_EQ(static_cast<int>(all.size()), world.size());
    for (int r = 0; r < world.size(); ++r) EXPECT_EQ(all[static_cast<size_t>(r)], TextOf(r));
  });
}

TEST(World, SumsAndMaxima) {
  OnWorlds([](World& world) {
    const int64_t n = world.size();
    EXPECT_EQ(world.Sum(world.rank() + (int64_t{1} << 40)), n * (n - 1) / 2 + (n << 40));
    EXPECT_EQ(world.Max(-world.rank()), 0);
    EXPECT_EQ(world.Max(world.rank()), n - 1);
    EXPECT_FALSE(world.host().empty());
    world.Barrier();
  });
}

TEST(World, AgreeTellsAllRanksTheFirstFailure) {
  OnWorlds([](World& world) {
    EXPECT_TRUE(world.Agree(absl::OkStatus()).ok());
    const int first = world.size() / 2;
    absl::Status mine;
    if (world.rank() >= first) mine = absl::DataLossError("rank " + std::to_string(world.rank()));
    const absl::Status agreed = world.Agree(mine);
    EXPECT_EQ(agreed.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(std::string(agreed.message()), "rank " + std::to_string(first));
    const absl::Status empty = world.Agree(absl::NotFoundError(""));
    EXPECT_EQ(empty.code(), absl::StatusCode::kNotFound);
  });
}

TEST(Mesh, EveryAxisHoldsTheRanksOfTheLayout) {
  OnWorlds([](World& world) {
    for (int axis = 1; axis <= world.size(); ++axis) {
      if (world.size() % axis != 0) continue;
      const Layout layout{world.size(), axis, world.size() / axis};
      const Mesh mesh = MakeMesh(world, layout);
      EXPECT_EQ(mesh.ranks_on_host, world.size());
      EXPECT_EQ(mesh.world->rank(), world.rank());
      EXPECT_EQ(mesh.expert->size(), layout.expert);
      EXPECT_EQ(mesh.expert->rank(), layout.expert_coordinate(world.rank()));
      EXPECT_EQ(mesh.expert_replicas->size(), layout.expert_replicas());
      EXPECT_EQ(mesh.expert_replicas->rank(), layout.expert_replica(world.rank()));
      EXPECT_EQ(mesh.memory->size(), layout.memory);
      EXPECT_EQ(mesh.memory->rank(), layout.memory_coordinate(world.rank()));
      EXPECT_EQ(mesh.memory_replicas->size(), layout.memory_replicas());
      EXPECT_EQ(mesh.memory_replicas->rank(), layout.memory_replica(world.rank()));
      // The members are the right ones, not only as many.
      TestStream t;
      const auto members = [&](Comm& comm) {
        int64_t sum = world.rank();
        Tensor x = Tensor::Wrap(&sum, DType::kI64, {1});
        comm.AllReduce(t.stream, x, Reduce::kSum);
        return sum;
      };
      int64_t neighbours = 0;
      int64_t likes = 0;
      for (int r = 0; r < world.size(); ++r) {
        if (layout.memory_replica(r) == layout.memory_replica(world.rank())) neighbours += r;
        if (layout.memory_coordinate(r) == layout.memory_coordinate(world.rank())) likes += r;
      }
      EXPECT_EQ(members(*mesh.memory), neighbours);
      EXPECT_EQ(members(*mesh.memory_replicas), likes);
    }
  });
}

}  // namespace
}  // namespace mneme
