// collective_bench: what noting a collective in the rank's pulse costs (parallel/pulse.h), with a
// watchdog beside it. Times the same all-reduce over a group that notes its calls and over one that
// does not, in turns. Under mpirun.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <vector>

#include "kernels/core/tensor.h"
#include "parallel/mpi_transport.h"
#include "parallel/watchdog.h"
#include "parallel/world.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 41;

double Nanoseconds(Clock::time_point begin, int64_t times) {
  return std::chrono::duration<double, std::nano>(Clock::now() - begin).count() /
         static_cast<double>(times);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + kRounds / 2, values.end());
  return values[kRounds / 2];
}

double Calls(World& world, Comm& comm, Stream& stream, Tensor& x, int64_t times) {
  world.Barrier();
  const Clock::time_point begin = Clock::now();
  for (int64_t i = 0; i < times; ++i) comm.AllReduce(stream, x, Reduce::kMax);
  return Nanoseconds(begin, times);
}

void Compare(World& world, Comm& noted, Comm& plain, int64_t bytes, int64_t times) {
  Allocator allocator(Device{});
  Stream stream(Device{}, allocator);
  Tensor x = Tensor::Zeros(stream, DType::kF32, {bytes / 4});
  std::vector<double> with;
  std::vector<double> without;
  for (int i = 0; i < kRounds; ++i) {
    without.push_back(Calls(world, plain, stream, x, times));
    with.push_back(Calls(world, noted, stream, x, times));
  }
  if (world.rank() != 0) return;
  std::printf("all_reduce of %7ld bytes: %9.0f ns noted, %9.0f ns not, ratio %.3f\n",
              static_cast<long>(bytes), Median(with), Median(without),
              Median(with) / Median(without));
}

int Main(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<World>> started = MpiWorld::Start(&argc, &argv);
  if (!started.ok()) return 2;
  World& world = **started;
  WatchdogOptions options;
  options.timeout = 600.0;
  world.StartWatchdog(options);
  if (world.rank() == 0) {
    constexpr int64_t kTimes = 10'000'000;
    const Clock::time_point begin = Clock::now();
    for (int64_t i = 0; i < kTimes; ++i) {
      const InFlight flight(&world.pulse(), {Collective::kAllReduce, Axis::kWorld, 8});
      world.pulse().Progress();
    }
    std::printf("a note of one call: %.1f ns\n", Nanoseconds(begin, kTimes));
  }
  const std::unique_ptr<Comm> noted = world.MakeComm();
  const std::unique_ptr<Comm> plain = MakeComm(MakeMpiTransport());
  Compare(world, *noted, *plain, 8, 4000);
  Compare(world, *noted, *plain, 4 << 10, 4000);
  Compare(world, *noted, *plain, 1 << 20, 40);
  return 0;
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) { return mneme::Main(argc, argv); }
