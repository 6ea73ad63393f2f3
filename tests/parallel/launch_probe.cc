// launch_probe [fatal|kill|agree]: a program that starts a world and ends in one way or another;
// launch_test.sh looks at it from outside.
#include <csignal>
#include <cstdio>
#include <string>

#include "kernels/core/check.h"
#include "parallel/world.h"

namespace mneme {
namespace {

// A rank that others wait for, where there are others.
bool IsCulprit(World& world) { return world.rank() == (world.size() > 1 ? 1 : 0); }

int Run(World& world, const std::string& how) {
  std::printf("rank %d of %d\n", world.rank(), world.size());
  std::fflush(stdout);
  world.Barrier();
  if (how == "fatal" && IsCulprit(world)) {
    Fatal(__FILE__, __LINE__, "check failed: rank " + std::to_string(world.rank()) + " breaks");
  }
  if (how == "kill" && IsCulprit(world)) std::raise(SIGKILL);
  absl::Status mine;
  if (how == "agree" && IsCulprit(world)) mine = absl::DataLossError("no such shard");
  const absl::Status agreed = world.Agree(mine);
  if (agreed.ok()) return 0;
  if (world.rank() == 0) {
    std::fprintf(stderr, "agreed: %s\n", std::string(agreed.message()).c_str());
  }
  return 3;
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<mneme::World>> world = mneme::MpiWorld::Start(&argc, &argv);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", std::string(world.status().message()).c_str());
    return 2;
  }
  return mneme::Run(**world, argc > 1 ? argv[1] : "");
}
