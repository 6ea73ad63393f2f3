// Threads and MPI of one layout give the same bits. Run under mpirun; rank 0 then makes the same
// run over threads.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

World* mpi_world = nullptr;

TEST(MpiParity, ThreadsAndMpiHaveTheSameBits) {
  World& world = *mpi_world;
  const int ranks = world.size();
  TempFolder temp;  // rank 0's is the one that counts
  const std::string folder = world.Broadcast(temp.path());
  const auto keys = [&](const char* name) {
    const std::string axis = std::to_string(ranks % 2 == 0 ? 2 : ranks);
    return std::vector<std::string>{"run.dir=" + folder + "/" + name, "train.steps=4",
                                    "train.precision=f32", "parallel.expert=" + axis,
                                    "parallel.memory=" + std::to_string(ranks)};
  };
  if (world.rank() == 0) TinyRun(folder, {});  // makes the corpora
  world.Barrier();
  const Outcome outcome = TrainOn(world, TinyRun(folder, keys("mpi")));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  if (world.rank() == 0) {
    const Outcome threads = TrainThreads(ranks, TinyRun(folder, keys("threads")));
    ASSERT_EQ(threads.exit_code, 0) << threads.message;
    EXPECT_EQ(Losses(outcome), Losses(threads));
    EXPECT_EQ(CheckpointState(folder + "/mpi/checkpoints/step-4"),
              CheckpointState(folder + "/threads/checkpoints/step-4"));
  }
  world.Barrier();
}

// 60 + 40 = 100 in short, and on fewer ranks of the other kind: a job under MPI goes on over
// threads.
TEST(MpiParity, AJobGoesOnOverThreads) {
  World& world = *mpi_world;
  TempFolder temp;
  const std::string folder = world.Broadcast(temp.path());
  const std::vector<std::string> keys = {"train.steps=5", "train.sequence_length=48"};
  if (world.rank() == 0) TinyRun(folder, keys);
  world.Barrier();
  const Outcome first = TrainOn(world, TinyRun(folder, keys), 3);
  ASSERT_EQ(first.exit_code, 75) << first.message;
  if (world.rank() == 0) {
    const Outcome second = TrainThreads(1, TinyRun(folder, keys));
    EXPECT_EQ(second.exit_code, 0) << second.message;
    EXPECT_EQ(second.steps.size(), 2u);
  }
  world.Barrier();
}

}  // namespace
}  // namespace mneme

// Every rank must come to the same verdict, or the job fails as a whole.
int main(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<mneme::World>> world = mneme::MpiWorld::Start(&argc, &argv);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", std::string(world.status().message()).c_str());
    return 2;
  }
  mneme::mpi_world = world->get();
  testing::InitGoogleTest(&argc, argv);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if ((*world)->rank() != 0) delete listeners.Release(listeners.default_result_printer());
  const int failed = RUN_ALL_TESTS();
  return (*world)->Max(failed) == 0 ? 0 : 1;
}
