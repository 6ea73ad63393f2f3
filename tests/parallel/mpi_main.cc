#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "kernels/core/driver.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

constexpr int kSkippedExitCode = 77;  // known to tests/CMakeLists.txt

World* mpi_world = nullptr;
Device rank_device;

// The groups of 1, 2, 3, … first members, made once: joining GPUs takes its time. Null where this
// rank is no member.
struct Groups {
  std::unique_ptr<Comm> all;
  std::vector<std::unique_ptr<Comm>> parts;
};
Groups* groups = nullptr;

std::unique_ptr<Groups> MakeGroups() {
  auto made = std::make_unique<Groups>();
  made->all = mpi_world->MakeComm(rank_device);
  for (int members = 1; members <= made->all->size(); ++members) {
    const bool inside = made->all->rank() < members;
    std::unique_ptr<Comm> part = made->all->Split(inside ? 0 : 1, made->all->rank(), Axis::kOther);
    made->parts.push_back(inside ? std::move(part) : nullptr);
  }
  return made;
}

// With MNEME_TEST_DEVICE=gpu: the GPU of this rank, in turn where there are fewer than ranks. False
// where there is none.
bool TakeDevice() {
  const char* name = std::getenv("MNEME_TEST_DEVICE");
  if (name == nullptr || std::string_view(name) != "gpu") return true;
  std::string why = "this program was built without a GPU";
  const int count = GpuDriver() == nullptr ? 0 : GpuDriver()->count(&why);
  if (count == 0) {
    std::fprintf(stderr, "skipped: no GPU (%s)\n", why.c_str());
    return false;
  }
  rank_device = {Device::Kind::kGpu, mpi_world->rank() % count};
  return true;
}

}  // namespace

void OnWorlds(const std::function<void(World&)>& body) { body(*mpi_world); }

Device RankDevice() { return rank_device; }

void OnGroups(const std::function<void(Comm&)>& body) {
  for (const std::unique_ptr<Comm>& group : groups->parts) {
    if (group != nullptr) body(*group);
    mpi_world->Barrier();
  }
}

bool OnPeerGroups(const std::function<void(Comm&, TestStream&)>& body) {
  const Device device = RankDevice();
  if (device.is_cpu() || mpi_world->size() == 1 || mpi_world->SharesGpus(device)) return false;
  const std::unique_ptr<Comm> all = mpi_world->MakeComm(device, /*peer=*/true);
  EXPECT_EQ(all->way(), "peer memory");
  for (int members = 2; members <= all->size(); ++members) {
    const bool inside = all->rank() < members;
    const std::unique_ptr<Comm> group = all->Split(inside ? 0 : 1, all->rank(), Axis::kOther);
    const int64_t little = int64_t{1} << (group->rank() % 2 == 0 ? 22 : 21);
    for (const int64_t bytes : {int64_t{256} << 20, little, int64_t{0}}) {
      if (!inside) continue;
      TestStream t;
      t.allocator.Reserve(bytes);
      EXPECT_EQ(group->ShareMemory(&t.stream).empty(), bytes > 0);
      EXPECT_EQ(group->direct() != nullptr, bytes > 0);
      body(*group, t);
      t.stream.Synchronize();
      group->ShareMemory(nullptr);
    }
    mpi_world->Barrier();
  }
  return true;
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
  if (!mneme::TakeDevice()) return mneme::kSkippedExitCode;
  std::unique_ptr<mneme::Groups> groups = mneme::MakeGroups();
  mneme::groups = groups.get();
  const int failed = RUN_ALL_TESTS();
  groups.reset();
  return (*world)->Max(failed) == 0 ? 0 : 1;
}
