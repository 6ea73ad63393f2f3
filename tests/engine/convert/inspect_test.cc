#include "engine/convert/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

#include "engine/checkpoint.h"
#include "engine/convert/safetensors.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using testing::HasSubstr;

class InspectRun : public testing::Test {
 protected:
  // The same steps on so many ranks; returns the run's folder.
  std::string Train(int ranks, const std::string& name, int steps) {
    const std::string dir = folder_.path() + "/" + name;
    std::vector<std::string> overrides = {"run.dir=" + dir, "train.steps=" + std::to_string(steps)};
    if (ranks > 1) overrides.insert(overrides.end(), {"parallel.memory=2", "parallel.expert=2"});
    const Outcome outcome = TrainThreads(ranks, TinyRun(folder_.path(), overrides));
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    return dir;
  }

  TempFolder folder_;
};

TEST_F(InspectRun, CheckpointIsWholeOnAnyNumberOfRanks) {
  const std::string alone = Train(1, "alone", 3);
  const std::string together = Train(4, "together", 3);
  auto first = OpenTensorSet(alone);
  auto second = OpenTensorSet(together);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  const auto inspection = Inspect(**first, {});
  ASSERT_TRUE(inspection.ok()) << inspection.status();
  std::map<std::string, InspectedTensor> tensors;
  for (const InspectedTensor& tensor : inspection->tensors) tensors[tensor.info.name] = tensor;
  EXPECT_EQ(tensors.at("embedding").info.shape, (std::vector<int64_t>{258, 24}));
  EXPECT_EQ(tensors.at("embedding").info.dtype, "f64");
  EXPECT_EQ(tensors.at("blocks.1.moe.router_bias").info.kind, "router_bias");
  // A gain of ones that has hardly moved.
  EXPECT_NEAR(tensors.at("norm").statistics.norm, std::sqrt(24.0), 0.2);
  const InspectedTensor& table = tensors.at("blocks.1.engram.table");
  EXPECT_GT(table.info.stored_rows, 0);
  EXPECT_LT(table.info.stored_rows, table.info.shape[0]);
  EXPECT_EQ(table.statistics.count, table.info.stored_rows * table.info.shape[1]);
  EXPECT_EQ(tensors.count("adam_m"), 0u);

  // Sums go in another order on four ranks: values agree closely, and everything is there.
  const auto comparison =
      Compare(**first, **second, {.moments = true, .statistics = true, .matching = ""});
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  EXPECT_TRUE(comparison->only_in_first.empty());
  EXPECT_TRUE(comparison->only_in_second.empty());
  for (const TensorDifference& d : comparison->differing) {
    EXPECT_EQ(d.why, "") << d.name;
    // Gains of mixes that begin at a symmetric point have gradients of rounding noise, which Adam
    // scales up.
    if ((d.kind == "value" || d.kind == "rows") && d.name.find("hyper") == std::string::npos) {
      EXPECT_LT(d.relative, 1e-6) << d.name;
    }
  }
  EXPECT_THAT(comparison->config, testing::Contains(HasSubstr("run.dir: ")));
}

TEST_F(InspectRun, DifferenceOfTwoSteps) {
  Train(1, "a", 2);
  const std::string dir = Train(1, "b", 4);
  auto first = OpenTensorSet(folder_.path() + "/a/checkpoints/step-2");
  auto second = OpenTensorSet(dir + "/checkpoints/step-4");
  ASSERT_TRUE(first.ok() && second.ok());
  const auto comparison = Compare(**first, **second, {});
  ASSERT_TRUE(comparison.ok());
  EXPECT_FALSE(comparison->equal());
  EXPECT_THAT(comparison->config, testing::Contains("train.steps: 2 -> 4"));
  bool table = false;
  for (const TensorDifference& d : comparison->differing) {
    EXPECT_GT(d.differing, 0) << d.name;
    EXPECT_GT(d.greatest, 0.0) << d.name;
    table = table || d.kind == "rows";
  }
  EXPECT_TRUE(table);
  const auto itself = OpenTensorSet(dir);
  ASSERT_TRUE(itself.ok());
  const auto equal =
      Compare(**itself, **second, {.moments = true, .statistics = true, .matching = ""});
  ASSERT_TRUE(equal.ok());
  EXPECT_TRUE(equal->equal()) << ComparisonText(*equal);
}

TEST_F(InspectRun, DamageIsFoundBeforeItIsRead) {
  const std::string dir = Train(1, "run", 1) + "/checkpoints/step-1";
  const std::string file = dir + "/rank-00000.h5";
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(5000).put('\x7e');
  for (const std::string& path : {dir, file}) {
    const auto set = OpenTensorSet(path);
    ASSERT_FALSE(set.ok()) << path;
    EXPECT_EQ(set.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(set.status().message()), HasSubstr("does not match its checksum"));
  }
}

TEST(Inspect, CountsWhatIsNotFinite) {
  TempFolder folder;
  const std::string path = folder.path() + "/w.safetensors";
  auto writer = SafetensorsWriter::Create(
      path, {{"w", Element::kF32, {2, 3}}, {"z", Element::kBf16, {2}}}, {{"format", "pt"}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(std::vector<double>{3.0, NAN, -4.0, INFINITY, 0.0, 0.0}).ok());
  ASSERT_TRUE((*writer)->Append(std::vector<double>{0.0, 0.0}).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  auto set = OpenTensorSet(path);
  ASSERT_TRUE(set.ok()) << set.status();
  const auto inspection = Inspect(**set, {});
  ASSERT_TRUE(inspection.ok());
  const TensorStatistics& s = inspection->tensors.at(0).statistics;
  EXPECT_EQ(s.count, 6);
  EXPECT_EQ(s.nans, 1);
  EXPECT_EQ(s.infinities, 1);
  EXPECT_EQ(s.zeros, 2);
  EXPECT_EQ(s.least, -4.0);
  EXPECT_EQ(s.greatest, 3.0);
  EXPECT_EQ(s.norm, 5.0);
  const std::string text = InspectionText(*inspection, true);
  EXPECT_THAT(text, HasSubstr("1 NaN"));
  EXPECT_THAT(text, HasSubstr("all zero"));
  EXPECT_THAT(text, HasSubstr("2 tensors, 28 B, 2 not finite"));
  EXPECT_THAT(text, HasSubstr("metadata format: pt"));
  EXPECT_THAT(InspectionJson(*inspection, true), HasSubstr(R"("nans": 1)"));
  EXPECT_EQ(OpenTensorSet(folder.path() + "/none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mneme
