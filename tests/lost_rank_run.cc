// lost_rank_run CONFIG KIND RANK PHASE STEP [key=value]...: `mneme train CONFIG`, but one rank is
// killed, stopped or fails (KIND: kill, stop, fatal, cuda; found: by a library while the rank
// waits) in the midst of a step or of saving it (PHASE: training, saving), or when all is done and
// the ranks are about to part (ending);
// lost_rank_test.sh looks at what comes of it.
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "configs/load.h"
#include "engine/trainer.h"
#include "kernels/core/check.h"
#include "kernels/core/tensor.h"
#include "kernels/kernels.h"
#include "parallel/fault_check.h"
#include "parallel/world.h"

namespace mneme {
namespace {

// Writes far outside of all device memory. From then on no call of this process to its GPU
// succeeds, whichever thread makes it.
class StrayWrite {
 public:
  explicit StrayWrite(int rank)
      : device_{Device::Kind::kGpu, GpuDriver()->count(&why_) > 1 ? rank : 0},
        allocator_(device_),
        stream_(device_, allocator_),
        ids_(Tensor::Empty(stream_, DType::kI64, {1})),
        row_(Tensor::Zeros(stream_, DType::kF32, {1, 1})),
        table_(Tensor::Zeros(stream_, DType::kF32, {1, 1})) {
    const int64_t far = int64_t{1} << 42;
    Upload(stream_, &far, ids_.bytes(), ids_);
    stream_.Synchronize();
  }
  void operator()() {
    GpuKernels()->put_rows(stream_, row_, ids_, table_);
    stream_.Synchronize();
  }

 private:
  std::string why_;
  Device device_;
  Allocator allocator_;
  Stream stream_;
  Tensor ids_, row_, table_;
};

// What a library would have found by itself, while the rank's own thread waits for ever.
std::atomic<bool> found{false};
pthread_t own_thread;
void WaitForEver(int) {
  while (true) pause();
}

// Waits for the moment, says when it came, and does it.
void Disturb(World& world, const std::string& kind, const std::string& phase, int64_t step) {
  std::optional<StrayWrite> stray;
  if (kind == "cuda") stray.emplace(world.rank());
  const auto wanted = static_cast<int64_t>(phase == "saving" ? Phase::kSaving : Phase::kTraining);
  // Frozen where it waits, the rank's own thread holds no lock that the words of the end need.
  const bool waiting = kind == "found";
  for (PulseNote note{}; phase != "ending" && (note[kPhase] != wanted || note[kStep] != step ||
                                               (waiting && note[kWaits] == 0));) {
    std::this_thread::yield();
    note = world.pulse().note();
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::fprintf(stderr, "fault at %ld\n",
               static_cast<long>(std::chrono::nanoseconds(now).count() / 1000000));
  if (kind == "kill") kill(getpid(), SIGKILL);
  if (kind == "stop") kill(getpid(), SIGSTOP);
  if (kind == "fatal") Fatal("a_driver.cc", 1, "forced error");
  if (kind == "found") {
    pthread_kill(own_thread, SIGURG);
    found = true;
  }
  if (kind == "cuda") (*stray)();
}

int Main(int argc, char** argv) {
  if (argc < 6) return 2;
  if (std::string(argv[2]) == "cuda" && GpuDriver() == nullptr) {
    std::fprintf(stderr, "lost_rank_run: this program was built without CUDA\n");
    return 2;
  }
  absl::StatusOr<std::unique_ptr<World>> world = MpiWorld::Start(&argc, &argv);
  if (!world.ok()) return 2;
  const std::vector<std::string> overrides(argv + 6, argv + argc);
  const absl::StatusOr<RunConfig> config = LoadConfig(argv[1], overrides, (*world)->size());
  if (!config.ok()) {
    std::fprintf(stderr, "%s\n", std::string(config.status().message()).c_str());
    return 2;
  }
  own_thread = pthread_self();
  signal(SIGURG, WaitForEver);
  const FaultCheck check([] {
    if (found) Fatal("a_library.cc", 1, "found by itself");
  });
  const auto disturb = [&, kind = std::string(argv[2]), phase = std::string(argv[4]),
                        step = std::atoll(argv[5])] { Disturb(**world, kind, phase, step); };
  const bool mine = (*world)->rank() == std::atoi(argv[3]);
  const bool ending = std::string(argv[4]) == "ending";
  if (mine && !ending) std::thread(disturb).detach();
  const absl::StatusOr<TrainResult> result = Train(**world, *config);
  if (mine && ending) disturb();
  return result.ok() ? result->exit_code : ExitCode(result.status());
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) { return mneme::Main(argc, argv); }
