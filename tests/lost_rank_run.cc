// lost_rank_run CONFIG KIND RANK PHASE STEP [key=value]...: `mneme train CONFIG`, but one rank is
// killed, stopped or fails (KIND: kill, stop, fatal) in the midst of a step or of saving it (PHASE:
// training, saving); lost_rank_test.sh looks at what comes of it.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "configs/load.h"
#include "engine/trainer.h"
#include "kernels/core/check.h"
#include "parallel/world.h"

namespace mneme {
namespace {

// Waits for the moment, says when it came, and does it.
void Disturb(World& world, const std::string& kind, const std::string& phase, int64_t step) {
  const auto wanted = static_cast<int64_t>(phase == "saving" ? Phase::kSaving : Phase::kTraining);
  for (PulseNote note{}; note[kPhase] != wanted || note[kStep] != step;) {
    std::this_thread::yield();
    note = world.pulse().note();
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::fprintf(stderr, "fault at %ld\n",
               static_cast<long>(std::chrono::nanoseconds(now).count() / 1000000));
  if (kind == "kill") kill(getpid(), SIGKILL);
  if (kind == "stop") kill(getpid(), SIGSTOP);
  if (kind == "fatal") Fatal("a_driver.cc", 1, "forced error");
}

int Main(int argc, char** argv) {
  if (argc < 6) return 2;
  absl::StatusOr<std::unique_ptr<World>> world = MpiWorld::Start(&argc, &argv);
  if (!world.ok()) return 2;
  const std::vector<std::string> overrides(argv + 6, argv + argc);
  const absl::StatusOr<RunConfig> config = LoadConfig(argv[1], overrides, (*world)->size());
  if (!config.ok()) {
    std::fprintf(stderr, "%s\n", std::string(config.status().message()).c_str());
    return 2;
  }
  if ((*world)->rank() == std::atoi(argv[3])) {
    std::thread(Disturb, std::ref(**world), std::string(argv[2]), std::string(argv[4]),
                std::atoll(argv[5]))
        .detach();
  }
  const absl::StatusOr<TrainResult> result = Train(**world, *config);
  return result.ok() ? result->exit_code : ExitCode(result.status());
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) { return mneme::Main(argc, argv); }
