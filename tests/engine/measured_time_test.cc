#include "engine/report/measured_time.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "kernels/core/part_clock.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

StepReport Timed(double seconds, double attention, double muon) {
  StepReport report;
  report.seconds = seconds;
  report.part_seconds.assign(kParts, 0.0);
  report.part_seconds[static_cast<size_t>(Part::kAttention)] = attention;
  report.part_seconds[static_cast<size_t>(Part::kMuon)] = muon;
  return report;
}

TEST(MeasuredTime, SaysWhereTheMedianStepWent) {
  MeasuredTime times;
  times.Add(Timed(9.0, 7.0, 1.0));  // the first one, which loads kernels
  times.Add(Timed(2.0, 1.5, 0.5));
  times.Add(Timed(2.0, 1.4, 0.4));
  EXPECT_EQ(times.median(), 2.0);
  EXPECT_EQ(times.Text({60000.0, 1e12, 2e12}),
            "where a step's time goes, medians of 3 on the first rank:\n"
            "  attention         1.5000 s   75.0 %\n"
            "  muon              0.5000 s   25.0 %\n"
            "  a step            2.0000 s  100.0 %\n"
            "  with the update: 30.0k tokens/s, 25.0 % of the peak\n"
            "  without it: 40.0k tokens/s, 33.3 % of the peak");
  EXPECT_EQ(times.Text({60000.0, 1e12, 0.0}).find("peak"), std::string::npos);
}

TEST(MeasuredTime, SaysNothingWherePartsAreNotTimed) {
  MeasuredTime times;
  EXPECT_TRUE(times.empty());
  StepReport report;
  report.seconds = 1.0;
  times.Add(report);
  EXPECT_FALSE(times.empty());
  EXPECT_EQ(times.Text({1.0, 1.0, 1.0}), "");
}

TEST(MeasuredTime, PartsOfARunAreTimedAndItsNumbersStay) {
  TempFolder temp;
  const auto run = [&](const std::string& dir, std::vector<std::string> more) {
    more.push_back("run.dir=" + temp.path() + "/" + dir);
    more.push_back("train.steps=3");
    more.push_back("parallel.expert=2");
    return TrainThreads(2, TinyRun(temp.path(), more));
  };
  const Outcome plain = run("plain", {});
  const Outcome timed = run("timed", {"train.time_parts=true", "train.checkpoint_last=false"});
  ASSERT_EQ(timed.exit_code, 0) << timed.message;
  EXPECT_EQ(Losses(timed), Losses(plain));
  for (const StepReport& step : timed.steps) {
    const std::map<std::string, double> more(step.more.begin(), step.more.end());
    double parts = 0.0;
    for (size_t part = 0; part < kParts; ++part) {
      const std::string name = std::string("time/") + Name(static_cast<Part>(part));
      ASSERT_TRUE(more.count(name)) << name;
      EXPECT_GT(more.at(name), 0.0) << name;
      parts += more.at(name);
    }
    EXPECT_NEAR(parts, more.at("time/forward_backward") + more.at("time/update"), 1e-9);
    EXPECT_LE(parts, step.seconds);
    EXPECT_GT(more.at("time/attention"), more.at("time/clip"));
  }
  EXPECT_TRUE(std::filesystem::exists(temp.path() + "/plain/checkpoints/step-3"));
  EXPECT_FALSE(std::filesystem::exists(temp.path() + "/timed/checkpoints/step-3"));
  EXPECT_TRUE(std::filesystem::exists(temp.path() + "/timed/result.json"));
}

}  // namespace
}  // namespace mneme
