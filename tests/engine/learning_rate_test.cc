#include "engine/update/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mneme {
namespace {

ScheduleConfig Shape(const char* shape, int64_t warmup) {
  ScheduleConfig schedule;
  schedule.shape = shape;
  schedule.warmup = warmup;
  return schedule;
}

// arXiv 2601.07372: 0 -> 4e-4 over 2,000 steps, x 0.316 beyond 40,000, x 0.1 beyond 45,000.
TEST(LearningRate, StepsAsThePaperHasThem) {
  const ScheduleConfig schedule = Shape("step", 2000);
  const auto rate = [&](int64_t u) { return LearningRate(schedule, 4e-4, u, 50000); };
  EXPECT_DOUBLE_EQ(rate(1), 4e-4 / 2000);
  EXPECT_DOUBLE_EQ(rate(1000), 2e-4);
  EXPECT_DOUBLE_EQ(rate(2000), 4e-4);
  EXPECT_DOUBLE_EQ(rate(40000), 4e-4);
  EXPECT_DOUBLE_EQ(rate(40001), 1.264e-4);
  EXPECT_DOUBLE_EQ(rate(45000), 1.264e-4);
  EXPECT_DOUBLE_EQ(rate(45001), 4e-5);
  EXPECT_DOUBLE_EQ(rate(50000), 4e-5);
}

TEST(LearningRate, CosineFallsFromTheWarmUpToItsEnd) {
  ScheduleConfig schedule = Shape("cosine", 10);
  schedule.final = 0.2;
  const auto rate = [&](int64_t u) { return LearningRate(schedule, 1.0, u, 110); };
  EXPECT_DOUBLE_EQ(rate(5), 0.5);
  EXPECT_DOUBLE_EQ(rate(10), 1.0);
  EXPECT_NEAR(rate(60), 0.6, 1e-15);
  EXPECT_NEAR(rate(35), 0.2 + 0.8 * 0.5 * (1 + std::sqrt(0.5)), 1e-15);
  EXPECT_DOUBLE_EQ(rate(110), 0.2);
  EXPECT_DOUBLE_EQ(rate(500), 0.2);
}

TEST(LearningRate, WarmupStableDecayIsLinearAtTheEnd) {
  ScheduleConfig schedule = Shape("wsd", 10);
  schedule.stable = 0.5;
  schedule.final = 0.0;
  const auto rate = [&](int64_t u) { return LearningRate(schedule, 2.0, u, 100); };
  EXPECT_DOUBLE_EQ(rate(50), 2.0);
  EXPECT_DOUBLE_EQ(rate(75), 1.0);
  EXPECT_DOUBLE_EQ(rate(100), 0.0);
}

TEST(LearningRate, ConstantWarmsUpOnly) {
  const ScheduleConfig schedule = Shape("constant", 4);
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 1.0, 1, 10), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 1.0, 4, 10), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 1.0, 10, 10), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(Shape("constant", 0), 1.0, 1, 10), 1.0);
}

}  // namespace
}  // namespace mneme
