#include "models/rotary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/models/fixture.h"

namespace mneme::test {
namespace {

const YarnConfig kPaper{.scale = 10.0};  // alpha 1, beta 32, mscale 0.707, 4,096

// docs/mathematics.md.
TEST(Rotary, YarnGoldens) {
  const YarnRamp ramp = RampOf(kPaper, 64, 10000.0);
  EXPECT_EQ(ramp.low, 10.0);
  EXPECT_EQ(ramp.high, 23.0);
  const std::vector<double> f = RotaryFrequencies(64, 10000.0, kPaper);
  ASSERT_EQ(f.size(), 32u);
  EXPECT_NEAR(f[11] / 3.9250213011e-2, 1.0, 1e-10);
  EXPECT_NEAR(f[16] / 5.8461538462e-3, 1.0, 1e-10);
  EXPECT_NEAR(f[22] / 3.0093959247e-4, 1.0, 1e-10);
  EXPECT_NEAR(std::sqrt(YarnScoreScale(kPaper)), 1.16279, 5e-6);
  EXPECT_NEAR(YarnScoreScale(kPaper), 1.35209, 5e-6);
}

TEST(Rotary, EndsOfTheRamp) {
  const std::vector<double> plain = RotaryFrequencies(64, 10000.0, YarnConfig{});
  const std::vector<double> f = RotaryFrequencies(64, 10000.0, kPaper);
  for (size_t i = 0; i < f.size(); ++i) {
    EXPECT_NEAR(plain[i] / std::pow(10000.0, -static_cast<double>(i) / 32.0), 1.0, 1e-14);
    if (i <= 10) {
      EXPECT_EQ(f[i], plain[i]);
    } else if (i >= 23) {
      EXPECT_NEAR(f[i] / (plain[i] / 10.0), 1.0, 1e-14);
    } else {
      EXPECT_LT(f[i], plain[i]);
      EXPECT_GT(f[i], plain[i] / 10.0);
    }
  }
  EXPECT_EQ(YarnScoreScale(YarnConfig{}), 1.0);
}

// A head so short that the ramp is empty still gives finite frequencies.
TEST(Rotary, EmptyRamp) {
  const YarnConfig yarn{.scale = 4.0, .alpha = 1000.0, .beta = 1000.0, .original_length = 64};
  for (const double f : RotaryFrequencies(2, 100.0, yarn)) EXPECT_TRUE(std::isfinite(f));
}

TEST(Rotary, TableHoldsCosAndSin) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    MlaConfig mla;
    mla.qk_rope = 4;
    mla.rope_theta = 100.0;
    const Rotary rotary = MakeRotary(rank.context, 5, mla, YarnConfig{});
    EXPECT_EQ(rotary.table.shape(), (Shape{5, 2, 2}));
    EXPECT_NEAR(GetValue(rotary.table, 3 * 4 + 2), std::cos(0.3), 1e-15);
    EXPECT_NEAR(GetValue(rotary.table, 3 * 4 + 3), std::sin(0.3), 1e-15);
    EXPECT_NEAR(GetValue(rotary.table, 3 * 4 + 1), std::sin(3.0), 1e-15);
  });
}

}  // namespace
}  // namespace mneme::test
