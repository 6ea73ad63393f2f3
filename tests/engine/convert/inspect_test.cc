#include "engine/convert/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "data/hdf5_file.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/manifest.h"
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

  // From the whole tables: the later of two steps stores all rows that the first one does.
  static void ExpectRelativeOfStoredRows(TensorSet& first, TensorSet& second,
                                         const TensorDifference& d) {
    const auto read = [&](TensorSet& set, std::vector<char>* stored) {
      size_t i = 0;
      while (set.tensors()[i].name != d.name || set.tensors()[i].kind != "rows") ++i;
      const std::vector<int64_t>& shape = set.tensors()[i].shape;
      std::vector<double> values(static_cast<size_t>(shape[0] * shape[1]));
      EXPECT_TRUE(set.Read(i, 0, absl::MakeSpan(values)).ok());
      stored->assign(static_cast<size_t>(shape[0]), 0);
      EXPECT_TRUE(set.MarkStored(i, 0, absl::MakeSpan(*stored)).ok());
      EXPECT_EQ(std::count(stored->begin(), stored->end(), 1), set.tensors()[i].stored_rows);
      return values;
    };
    std::vector<char> unused, stored;
    const std::vector<double> a = read(first, &unused), b = read(second, &stored);
    double norm = 0.0, difference = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
      if (stored[i / (a.size() / stored.size())] == 0) {
        EXPECT_EQ(a[i], b[i]);
        continue;
      }
      norm += a[i] * a[i];
      difference += (a[i] - b[i]) * (a[i] - b[i]);
    }
    EXPECT_NEAR(d.relative, std::sqrt(difference / norm), 1e-9 * d.relative);
    EXPECT_EQ(d.rows_left_out, std::count(stored.begin(), stored.end(), 0));
    EXPECT_GT(d.rows_left_out, 0);
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
    if (d.kind != "rows") continue;
    table = true;
    ExpectRelativeOfStoredRows(**first, **second, d);
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

TEST_F(InspectRun, ATableWithoutColumnsIsRefused) {
  const std::string dir = Train(1, "run", 1) + "/checkpoints/step-1";
  auto manifest = ReadCheckpointManifest(dir);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  for (StoredTable& table : manifest->tables) table.width = 0;
  std::ofstream(dir + "/manifest.json") << DumpCheckpointManifest(*manifest);
  const auto set = OpenTensorSet(dir);
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(set.status().message()), HasSubstr("blocks.1.engram.table"));
}

// A table of 4 columns in memory: stored rows are `value`, all others 1, or as the seed has it.
class TableInMemory : public TensorSet {
 public:
  TableInMemory(int64_t rows, std::map<int64_t, double> stored, int seed = 1)
      : stored_(std::move(stored)), seed_(seed) {
    const auto count = static_cast<int64_t>(stored_.size());
    tensors_.push_back(
        {"table", "rows", "f64", {rows, 4}, 32 * count, count, "seed " + std::to_string(seed)});
  }
  const char* what() const override { return "table"; }
  const std::string& path() const override { return path_; }
  std::vector<std::pair<std::string, std::string>> Facts() const override { return {}; }
  std::string Config() const override { return ""; }
  absl::Status Read(size_t, int64_t first, absl::Span<double> to) override {
    read_ += static_cast<int64_t>(to.size());
    for (size_t i = 0; i < to.size(); ++i) {
      const auto it = stored_.find((first + static_cast<int64_t>(i)) / 4);
      to[i] = it == stored_.end() ? seed_ : it->second;
    }
    return absl::OkStatus();
  }
  absl::Status MarkStored(size_t, int64_t begin, absl::Span<char> stored) override {
    for (const auto& [row, value] : stored_) {
      const int64_t at = row - begin;
      if (at >= 0 && at < static_cast<int64_t>(stored.size())) stored[static_cast<size_t>(at)] = 1;
    }
    return absl::OkStatus();
  }
  int64_t read() const { return read_; }

 private:
  const std::string path_ = "memory";
  const std::map<int64_t, double> stored_;
  const int seed_;
  int64_t read_ = 0;
};

// The norm is of the rows that one of both stores, wherever they lie among stretches.
TEST(Inspect, NormsOfTablesAreOfTheRowsThatEitherStores) {
  constexpr int64_t kRows = 2'000'000;  // 8 stretches
  for (const int64_t row : {int64_t{5}, int64_t{300'000}, kRows - 1}) {
    TableInMemory first(kRows, {{row, 3.0}});
    TableInMemory second(kRows, {{row, 3.5}, {kRows / 2, 1.0}});
    const auto comparison = Compare(first, second, {});
    ASSERT_TRUE(comparison.ok()) << comparison.status();
    ASSERT_EQ(comparison->differing.size(), 1u);
    const TensorDifference& d = comparison->differing.front();
    EXPECT_EQ(d.differing, 4);
    EXPECT_EQ(d.greatest, 0.5);
    EXPECT_DOUBLE_EQ(d.relative, std::sqrt(0.25 / (9.0 + 1.0)));
    EXPECT_EQ(d.rows_left_out, kRows - 2);
    EXPECT_THAT(ComparisonText(*comparison),
                HasSubstr("of the norm without 1999998 rows that neither stores\n"));
    EXPECT_THAT(ComparisonJson(*comparison), HasSubstr(R"("rows_left_out": 1999998)"));
    EXPECT_LE(first.read(), 2 << 20) << "stretches without a stored row are not read";
  }
}

TEST(Inspect, TablesOfTwoSeedsDifferInRowsThatNeitherStores) {
  constexpr int64_t kRows = 600'000;
  constexpr int64_t kStretch = 1 << 18;
  std::map<int64_t, double> begin;
  for (int64_t row = 0; row < kStretch; ++row) begin[row] = 2.0;
  TableInMemory first(kRows, begin, 1), second(kRows, begin, 3);
  const auto comparison = Compare(first, second, {});
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  ASSERT_EQ(comparison->differing.size(), 1u);
  const TensorDifference& d = comparison->differing.front();
  const int64_t differing = kRows - kStretch;
  EXPECT_EQ(d.differing, 4 * differing);
  EXPECT_DOUBLE_EQ(d.relative, std::sqrt(4.0 * static_cast<double>(differing) /
                                         static_cast<double>(4 * kStretch + differing)));
  EXPECT_EQ(d.rows_left_out, 0);
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

// Any piece of a dataset of any type and number of dimensions, whatever rows it begins and ends in.
TEST(Inspect, AnHdf5FileIsReadByItsDatasets) {
  TempFolder folder;
  const std::string path = folder.path() + "/mixed.h5";
  auto file = H5File::Create(path).value();
  const auto write = [&](const char* name, H5Type type, std::vector<int64_t> shape,
                         const auto& values) {
    ASSERT_TRUE(file->Write(name, type, shape, values.data()).ok()) << name;
  };
  write("f32", H5Type::kF32, {3, 4}, std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  write("f64", H5Type::kF64, {5}, std::vector<double>{0, 1, 2, 3, 4});
  write("g/i32", H5Type::kI32, {2, 3, 2},
        std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  write("g/i64", H5Type::kI64, {4, 1}, std::vector<int64_t>{0, 1, 2, 3});
  write("u16", H5Type::kU16, {1, 6}, std::vector<uint16_t>{0, 1, 2, 3, 4, 5});
  write("u32", H5Type::kU32, {6}, std::vector<uint32_t>{0, 1, 2, 3, 4, 5});
  write("u8", H5Type::kU8, {2, 2}, std::vector<uint8_t>{0, 1, 2, 3});
  write("one", H5Type::kF64, {}, std::vector<double>{7});
  ASSERT_TRUE(file->WriteText("text", "no numbers").ok());
  ASSERT_TRUE(file->Close().ok());

  auto set = OpenTensorSet(path);
  ASSERT_TRUE(set.ok()) << set.status();
  std::vector<std::string> names;
  for (size_t i = 0; i < (*set)->tensors().size(); ++i) {
    const TensorInfo& info = (*set)->tensors()[i];
    names.push_back(info.name + " " + info.dtype);
    int64_t elements = 1;
    for (const int64_t dim : info.shape) elements *= dim;
    for (int64_t first = 0; first < elements; ++first) {
      for (int64_t count = 1; first + count <= elements; ++count) {
        std::vector<double> values(static_cast<size_t>(count));
        ASSERT_TRUE((*set)->Read(i, first, absl::MakeSpan(values)).ok()) << info.name;
        for (int64_t k = 0; k < count; ++k) {
          const double want = info.shape.empty() ? 7.0 : static_cast<double>(first + k);
          EXPECT_EQ(values[static_cast<size_t>(k)], want) << info.name << " from " << first;
        }
      }
    }
  }
  EXPECT_THAT(names, testing::ElementsAre("f32 f32", "f64 f64", "g/i32 i32", "g/i64 i64", "one f64",
                                          "u16 u16", "u32 u32", "u8 u8"));
  const auto inspection = Inspect(**set, {.matching = "i32"});
  ASSERT_TRUE(inspection.ok()) << inspection.status();
  ASSERT_EQ(inspection->tensors.size(), 1u);
  EXPECT_EQ(inspection->tensors[0].statistics.norm, std::sqrt(506.0));
  EXPECT_THAT(InspectionText(*inspection, true), HasSubstr("HDF5 file"));

  const auto missing = OpenTensorSet(folder.path() + "/nowhere.h5");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound) << missing.status();
  std::filesystem::create_directories(folder.path() + "/run/checkpoints");
  const auto bare = OpenTensorSet(folder.path() + "/run").status();
  EXPECT_THAT(std::string(bare.message()), HasSubstr("is a run without a whole checkpoint"));
}

}  // namespace
}  // namespace mneme
