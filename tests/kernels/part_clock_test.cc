#include "kernels/core/part_clock.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/device_under_test.h"

namespace mneme {
namespace {

class PartClockTest : public testing::Test {
 protected:
  // Takes time in proportion, on the device as on the host.
  void Work(int times) {
    for (int i = 0; i < times; ++i) Zero(stream_, memory_);
  }
  static double Of(const PartClock::Seconds& seconds, Part part) {
    return seconds[static_cast<size_t>(part)];
  }

  Allocator allocator_{Device{}};
  Stream own_{Device{}, allocator_};
  Stream& stream_ = test::TestingGpu() ? test::GpuStream() : own_;
  Tensor memory_ = Tensor::Zeros(stream_, DType::kF32, {int64_t{1} << 22});
};

TEST_F(PartClockTest, TimeGoesToTheInnermostPart) {
  PartClock clock(stream_);
  for (int step = 0; step < 2; ++step) {  // the second with the marks of the first
    Work(50);                             // of no step
    clock.Begin();
    {
      const InPart outer(&clock, Part::kAttention);
      Work(1);
      {
        const InPart inner(&clock, Part::kExchange);
        Work(50);
      }
      const InPart same(&clock, Part::kAttention);
      Work(1);
    }
    Work(1);
    const PartClock::Seconds seconds = clock.End();
    EXPECT_GT(Of(seconds, Part::kAttention), 0.0);
    EXPECT_GT(Of(seconds, Part::kHead), 0.0);
    EXPECT_GT(Of(seconds, Part::kExchange),
              4 * (Of(seconds, Part::kAttention) + Of(seconds, Part::kHead)));
    const double all = std::accumulate(seconds.begin(), seconds.end(), 0.0);
    EXPECT_NEAR(
        all,
        Of(seconds, Part::kExchange) + Of(seconds, Part::kAttention) + Of(seconds, Part::kHead),
        1e-12 * all);
  }
}

TEST_F(PartClockTest, BetweenStepsAndWithoutAClockNothingIsMarked) {
  PartClock clock(stream_);
  { const InPart evaluation(&clock, Part::kMemory); }
  { const InPart nobody(nullptr, Part::kMemory); }
  clock.Begin();
  EXPECT_EQ(clock.Enter(Part::kMuon), Part::kHead);
  EXPECT_EQ(clock.Enter(Part::kHead), Part::kMuon);
  EXPECT_EQ(Of(clock.End(), Part::kMemory), 0.0);
}

}  // namespace
}  // namespace mneme
