// Threads and MPI of one layout give the same bits, whether exchanges may run beside the computing
// or not. Run under mpirun; rank 0 then makes the same run over threads.
#include <gtest/gtest.h>

#include <algorithm>
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
  const auto keys = [&](const char* name, bool overlap = true) {
    const std::string axis = std::to_string(ranks % 2 == 0 ? 2 : ranks);
    return std::vector<std::string>{"run.dir=" + folder + "/" + name,
                                    "train.steps=4",
                                    "train.precision=f32",
                                    "parallel.expert=" + axis,
                                    "parallel.memory=" + std::to_string(ranks),
                                    overlap ? "parallel.overlap=true" : "parallel.overlap=false"};
  };
  if (world.rank() == 0) TinyRun(folder, {});  // makes the corpora
  world.Barrier();
  const Outcome outcome = TrainOn(world, TinyRun(folder, keys("mpi")));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  const Outcome in_turn = TrainOn(world, TinyRun(folder, keys("in_turn", false)));
  ASSERT_EQ(in_turn.exit_code, 0) << in_turn.message;
  if (world.rank() == 0) {
    for (const StepReport& step : outcome.steps) {
      const bool told = std::any_of(step.more.begin(), step.more.end(), [](const auto& value) {
        return value.first == "time/exposed" && value.second >= 0.0;
      });
      EXPECT_EQ(told, world.size() > 1);
    }
    EXPECT_EQ(Losses(outcome), Losses(in_turn));
    EXPECT_EQ(CheckpointState(folder + "/mpi/checkpoints/step-4"),
              CheckpointState(folder + "/in_turn/checkpoints/step-4"));
    const Outcome threads = TrainThreads(ranks, TinyRun(folder, keys("threads")));
    ASSERT_EQ(threads.exit_code, 0) << threads.message;
    EXPECT_EQ(Losses(outcome), Losses(threads));
    EXPECT_EQ(CheckpointState(folder + "/mpi/checkpoints/step-4"),
              CheckpointState(folder + "/threads/checkpoints/step-4"));
    const Outcome threads_in_turn =
        TrainThreads(ranks, TinyRun(folder, keys("threads_in_turn", false)));
    EXPECT_EQ(Losses(threads_in_turn), Losses(threads));
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
