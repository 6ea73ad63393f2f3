#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "tests/parallel/ranks.h"

namespace mneme {
namespace {
World* mpi_world = nullptr;
}  // namespace

void OnWorlds(const std::function<void(World&)>& body) { body(*mpi_world); }

void OnGroups(const std::function<void(Comm&)>& body) {
  std::unique_ptr<Comm> all = mpi_world->MakeComm();
  for (int members = 1; members <= all->size(); ++members) {
    const bool inside = all->rank() < members;
    std::unique_ptr<Comm> group = all->Split(inside ? 0 : 1, all->rank(), Axis::kOther);
    if (inside) body(*group);
    mpi_world->Barrier();
  }
}

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
