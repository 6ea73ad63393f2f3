// launch_probe [fatal|kill|agree|watched-{kill,stop,spin,split,fatal}]: a program that starts a
// world and ends in one way or another; launch_test.sh looks at it from outside.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <string>

#include "kernels/core/check.h"
#include "parallel/watchdog.h"
#include "parallel/world.h"

namespace mneme {
namespace {

// A rank that others wait for, where there are others.
bool IsCulprit(World& world) { return world.rank() == (world.size() > 1 ? 1 : 0); }

// Begins to watch; the culprit is killed, stops, or lives on without getting on, while the others
// wait for it. `split`: as if each rank were a host. `fatal`: all fail at once.
void RunWatched(World& world, const std::string& how) {
  WatchdogOptions options;
  options.timeout = 1.0;
  if (how == "watched-split") {
    options.folder = "launch_probe.pulses";
    options.host = "host" + std::to_string(world.rank());
  }
  std::signal(SIGTERM, SIG_IGN);  // the launcher's; a run answers it at a step's end
  world.StartWatchdog(options);
  world.pulse().SetStep(17);
  world.Barrier();
  if (how == "watched-fatal") Fatal(__FILE__, __LINE__, "check failed: on all ranks alike");
  if (!IsCulprit(world)) return;
  if (how == "watched-kill") std::raise(SIGKILL);
  if (how != "watched-spin") std::raise(SIGSTOP);
  for (std::atomic<int64_t> i{0};;) ++i;
}

int Run(World& world, const std::string& how) {
  std::printf("rank %d of %d\n", world.rank(), world.size());
  std::fflush(stdout);
  world.Barrier();
  if (how == "fatal" && IsCulprit(world)) {
    Fatal(__FILE__, __LINE__, "check failed: rank " + std::to_string(world.rank()) + " breaks");
  }
  if (how == "kill" && IsCulprit(world)) std::raise(SIGKILL);
  if (how.rfind("watched-", 0) == 0) RunWatched(world, how);
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
