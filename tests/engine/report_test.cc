#include "engine/report/report.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/report/plot.h"
#include "engine/report/result.h"
#include "engine/report/tensorboard.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

StepReport At(int64_t step) {
  StepReport report;
  report.step = step;
  report.steps = 100;
  report.loss = 1.0 / static_cast<double>(step);
  report.more = {{"time/forward", 0.25}};
  return report;
}

std::vector<int64_t> Steps(const std::string& path) {
  std::vector<int64_t> steps;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    steps.push_back(nlohmann::json::parse(line)["step"]);
  return steps;
}

TEST(MetricsLine, IsStrictJsonEvenWhereNumbersAreNot) {
  StepReport report = At(3);
  report.loss = std::nan("");
  report.grad_norm = std::numeric_limits<double>::infinity();
  report.more.emplace_back("evaluate/a \"b\"\n/loss", 0.1);
  const auto json = nlohmann::json::parse(MetricsLine(report));
  EXPECT_TRUE(json["loss"].is_null());
  EXPECT_TRUE(json["grad_norm"].is_null());
  EXPECT_EQ(json["evaluate/a \"b\"\n/loss"], 0.1);
  EXPECT_EQ(json["step"], 3);
  EXPECT_EQ(json["skipped"], false);
}

TEST(MetricsLine, SaysWhichRankIsSlowest) {
  EXPECT_EQ(nlohmann::json::parse(MetricsLine(At(3))).count("ranks/slowest"), 0u);
  EXPECT_EQ(ConsoleLine(At(3), 1.0).find("slowest"), std::string::npos);
  StepReport report = At(3);
  report.rank_seconds = {1.0, 1.5, 3.0, 1.25};
  const auto json = nlohmann::json::parse(MetricsLine(report));
  EXPECT_EQ(json["ranks/slowest"], 2);
  EXPECT_EQ(json["ranks/seconds_max"], 3.0);
  EXPECT_EQ(json["ranks/seconds_median"], 1.5);
  EXPECT_NE(ConsoleLine(report, 1.0).find(" | rank 2 slowest, x2.00 | "), std::string::npos);
  report.rank_seconds = {0.0, 0.0};
  EXPECT_NE(ConsoleLine(report, 1.0).find(" | rank 0 slowest | "), std::string::npos);
}

TEST(MetricsLog, HoldsEachStepOnceInOrderAfterACrash) {
  TempFolder temp;
  const std::string path = temp.path() + "/metrics.jsonl";
  {
    auto log = MetricsLog::Open(path, 0).value();
    for (int64_t step = 1; step <= 7; ++step) ASSERT_TRUE(log->Write(At(step)).ok());
  }
  std::ofstream(path, std::ios::app) << "{\"step\": 8, \"lo";  // torn by a kill
  {
    // The checkpoint stands at 5: 6 and 7 are made again.
    auto log = MetricsLog::Open(path, 5).value();
    for (int64_t step = 6; step <= 9; ++step) ASSERT_TRUE(log->Write(At(step)).ok());
    ASSERT_TRUE(log->Flush().ok());
  }
  EXPECT_EQ(Steps(path), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  const auto losses = ReadSeries(path, "loss").value();
  ASSERT_EQ(losses.size(), 9u);
  EXPECT_EQ(losses[3], (std::pair<double, double>{4.0, 0.25}));
  EXPECT_EQ(ReadSeries(path, "time/forward").value().size(), 9u);
  EXPECT_TRUE(ReadSeries(path, "absent").value().empty());
  { auto log = MetricsLog::Open(path, 0).value(); }
  EXPECT_EQ(ReadText(path), "");
}

TEST(MetricsLog, CutsATornLineThatLooksWholeButHasNoEnd) {
  TempFolder temp;
  const std::string path = temp.path() + "/metrics.jsonl";
  std::ofstream(path) << MetricsLine(At(1)) << "\n" << MetricsLine(At(2));
  { auto log = MetricsLog::Open(path, 2).value(); }
  EXPECT_EQ(Steps(path), std::vector<int64_t>{1});
}

// What is no step's stands between the lines, by a crash or by hand: a run that goes on keeps the
// steps behind it, and readers leave it out and say so.
TEST(MetricsLog, KeepsTheStepsBehindALineThatIsNone) {
  TempFolder temp;
  const std::string path = temp.path() + "/metrics.jsonl";
  {
    std::ofstream out(path);
    out << MetricsLine(At(1)) << "\n"
        << std::string(40, '\0') << "\n"
        << MetricsLine(At(2)) << "\n";
    out << "{\"step\": nan, \"loss\": 9}\n{\"step\": inf, \"loss\": 9}\n{\"step\": 2.5, \"loss\": "
           "9}\n";
    out << "{\"step\": \"3\", \"loss\": 9}\n{\"step\": 1, \"loss\": 9}\nhello\n\n";
    out << MetricsLine(At(3)) << "\n" << MetricsLine(At(4)) << "\n";
  }
  { auto log = MetricsLog::Open(path, 3).value(); }
  std::string left_out;
  using Series = std::vector<std::pair<double, double>>;
  const Series want = {{1.0, 1.0}, {2.0, 0.5}, {3.0, 1.0 / 3.0}};
  EXPECT_EQ(ReadSeries(path, "loss", &left_out).value(), want);
  EXPECT_EQ(left_out, path + ":2: is no line of a step, and so are 7 more; left out");
  // A value that is no number is none; a last line that is being written is nothing to tell.
  std::ofstream(path) << "{\"step\": 1, \"loss\": nan}\n{\"step\": 2, \"loss\": -inf}\n"
                      << "{\"step\": 3, \"loss\": 4}\n{\"step\": 4, \"lo";
  left_out.clear();
  EXPECT_EQ(ReadSeries(path, "loss", &left_out).value(), (Series{{3.0, 4.0}}));
  EXPECT_EQ(left_out, "");
}

TEST(MetricsLog, SaysWhichFileItCannotOpen) {
  const auto log = MetricsLog::Open("/no/such/folder/metrics.jsonl", 0);
  ASSERT_FALSE(log.ok());
  EXPECT_NE(log.status().message().find("/no/such/folder/metrics.jsonl"), absl::string_view::npos);
  EXPECT_FALSE(ReadSeries("/no/such/folder/metrics.jsonl", "loss").ok());
}

TEST(ConsoleLine, TellsAStepOnOneLine) {
  StepReport report = At(20);
  report.tokens_per_second = 51500;
  report.learning_rate = 3e-4;
  EXPECT_EQ(ConsoleLine(report, 8040),
            "step 20/100 | loss 0.0500 | gnorm 0 | lr 3.00e-04 | 51.5k tok/s | eta 2h14m");
  report.skipped = true;
  EXPECT_NE(ConsoleLine(report, 5).find("| skipped |"), std::string::npos);
  EXPECT_EQ(DurationText(185), "3m05s");
  EXPECT_EQ(DurationText(-1), "?");
  EXPECT_EQ(CountText(2.1e6), "2.10M");
}

TEST(Plot, DrawsAFallingCurveFromTopLeftToBottomRight) {
  Curve curve{"loss", {}};
  for (int i = 0; i <= 100; ++i) curve.points.emplace_back(i, 5.0 - 0.03 * i);
  curve.points.emplace_back(50.0, std::nan(""));
  const std::string text = PlotText({curve}, 40, 10);
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 13u);
  EXPECT_NE(lines[0].find("5 |*"), std::string::npos) << text;
  EXPECT_NE(lines[9].find("2 |"), std::string::npos) << text;
  EXPECT_EQ(lines[9].back(), '*');
  EXPECT_EQ(PlotText({}, 40, 10), "");
  EXPECT_FALSE(PlotText({{"one", {{1.0, 2.0}}}}, 40, 10).empty());
}

// Sums and ranges beyond what a double holds, and values that differ in their last digit alone.
TEST(Plot, DrawsWhateverIsFinite) {
  const Curve huge{"huge", {{1, 1.7e308}, {1, 1.7e308}, {2, -1.7e308}, {3, 0.0}, {4, 1.7e308}}};
  EXPECT_FALSE(PlotText({huge}, 40, 10).empty());
  EXPECT_EQ(PlotSvg({huge}, "t", "x", "y").find("nan"), std::string::npos);
  const Curve one{"one", {{1, 3.0}, {2, std::nextafter(3.0, 4.0)}}};
  EXPECT_NE(PlotSvg({one}, "t", "x", "y").find("</svg>"), std::string::npos);
  EXPECT_LT(RoundTicks(1e18, std::nextafter(1e18, 2e18)).size(), 4u);
  EXPECT_TRUE(RoundTicks(0.0, std::numeric_limits<double>::infinity()).empty());
  EXPECT_EQ(RoundTicks(0.0, 1.0),
            (std::vector<double>{0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0}));
}

TEST(Result, IsReadAsItWasWritten) {
  TempFolder temp;
  const std::string path = temp.path() + "/result.json";
  RunResult result;
  result.position.step = 7;
  result.sets = {{"near", 2.5, 3.6, 40, {}, {}}, {"far", std::nan(""), 1.0, 2, {}, {}}};
  result.trained = true;
  result.seconds = 1.5;
  result.peak_memory = 99;
  ASSERT_TRUE(WriteResult(path, result).ok());
  const StoredResult read = ReadResult(path).value();
  EXPECT_EQ(read.text, ReadText(path));
  EXPECT_EQ(read.steps, 7);
  EXPECT_EQ(read.peak_memory, 99);
  EXPECT_EQ(read.validation_loss, 2.5);
  EXPECT_EQ(read.seconds, 1.5);
  ASSERT_EQ(read.set_losses.size(), 1u) << "one loss was not finite";
  EXPECT_EQ(read.set_losses[0], (std::pair<std::string, double>{"near", 2.5}));
  EXPECT_TRUE(absl::IsNotFound(ReadResult(temp.path() + "/absent").status()));
}

TEST(Result, SaysWhichMemberIsNotAsARunWritesIt) {
  TempFolder temp;
  const std::string path = temp.path() + "/result.json";
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"[1]", "is no JSON object"},
           {"{}", "steps: is missing"},
           {R"({"steps": null})", "steps: is missing"},
           {R"({"steps": -1})", "steps: is -1, below 0"},
           {R"({"steps": 1e300})", "steps: is 1e+300, not a whole number of 64 bits"},
           {R"({"steps": 1, "tokens": 1e30})", "tokens: is 1e+30, not a whole number of 64 bits"},
           {R"({"steps": 1, "train_loss": "2"})", R"(train_loss: is "2", not a number)"},
           {R"({"steps": 1, "validation_loss": [2]})", "validation_loss: is [2], not a number"},
           {R"({"steps": 1, "sets": [2]})", "sets: is [2], not an object"},
           {R"({"steps": 1, "sets": {"a": {"loss": true}}})", "sets.a.loss: is true, not a number"},
           {R"({"steps": 1, "parameters": {"total": "x"}, "ranks": {}})",
            "ranks: is {}, not a whole number of 64 bits, and 1 more"}}) {
    std::ofstream(path) << text;
    const absl::Status status = ReadResult(path).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << text;
    EXPECT_EQ(status.message(), path + ": " + why);
  }
}

TEST(Plot, SvgIsWholeAndNamesItsCurves) {
  const std::string svg =
      PlotSvg({{"a<b", {{0, 1}, {1, 2}}}, {"c", {}}}, "title & all", "step", "nats");
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
  EXPECT_NE(svg.find("a&lt;b"), std::string::npos);
  EXPECT_NE(svg.find("title &amp; all"), std::string::npos);
  EXPECT_NE(svg.find("points=\"70,360 690,50 \""), std::string::npos) << svg;
}

// Reads the frames of an event file, checking both sums of each.
std::vector<std::string> Records(const std::string& bytes) {
  const auto number = [&](size_t at, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i)
      value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
    return value;
  };
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = number(at, 8);
    EXPECT_EQ(number(at + 8, 4), MaskedCrc(bytes.substr(at, 8)));
    records.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(number(at + 12 + size, 4), MaskedCrc(records.back()));
    at += 16 + size;
  }
  return records;
}

TEST(TensorBoard, CrcIsCastagnolis) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);  // the check value of CRC-32C
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST(TensorBoard, WritesVersionThenScalars) {
  TempFolder temp;
  {
    auto log = TensorBoardLog::Open(temp.path() + "/tb", 41).value();
    ASSERT_TRUE(log->Write(At(42)).ok());
  }
  std::string bytes;
  for (const auto& entry : std::filesystem::directory_iterator(temp.path() + "/tb"))
    bytes = ReadText(entry.path());
  const std::vector<std::string> records = Records(bytes);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  // Event.step = 42 (tag 0x10), session_log {status: START} (tags 0x3a, 0x08).
  EXPECT_NE(records[1].find(std::string("\x10\x2a\x3a\x02\x08\x01", 6)), std::string::npos);
  EXPECT_NE(records[2].find("\x10\x2a"), std::string::npos);
  EXPECT_NE(records[2].find("time/forward"), std::string::npos);
  const float quarter = 0.25f;
  const std::string value = "\x15" + std::string(reinterpret_cast<const char*>(&quarter), 4);
  EXPECT_NE(records[2].find("time/forward" + value), std::string::npos);
}

// Event.step of a record, behind Event.wall_time (tag 0x09 and 8 bytes); 0 where it has none.
int64_t StepOf(const std::string& record) {
  return record.at(9) == 0x10 ? static_cast<int64_t>(record.at(10)) : 0;
}

// As TensorBoard shows them: a START hides what stood at its step and behind it.
TEST(TensorBoard, ARunThatGoesOnHidesTheStepsThatItMakesAgain) {
  TempFolder temp;
  const RunConfig config =
      TinyRun(temp.path(), {"train.sequence_length=32", "train.batch_sequences=4", "train.steps=8",
                            "train.checkpoint_every=3", "train.tensorboard=true"});
  ASSERT_EQ(TrainThreads(1, config, 5).exit_code, 75);
  std::filesystem::remove_all(config.run.dir + "/checkpoints/step-5");
  for (const auto& entry : std::filesystem::directory_iterator(config.run.dir + "/tb"))
    std::filesystem::rename(entry.path(), temp.path() + "/first");  // made in the same second
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  std::string bytes = ReadText(temp.path() + "/first");
  for (const auto& entry : std::filesystem::directory_iterator(config.run.dir + "/tb"))
    bytes += ReadText(entry.path());
  std::vector<std::pair<int64_t, std::string>> shown;
  for (const std::string& record : Records(bytes)) {
    const int64_t step = StepOf(record);
    if (record.find("\x3a\x02\x08\x01", 11) == 11) {
      std::erase_if(shown, [&](const auto& event) { return event.first >= step; });
    } else if (step > 0) {
      shown.emplace_back(step, record);
    }
  }
  const auto losses = ReadSeries(config.run.dir + "/metrics.jsonl", "loss").value();
  ASSERT_EQ(shown.size(), 8u);
  ASSERT_EQ(losses.size(), 8u);
  for (size_t i = 0; i < shown.size(); ++i) {
    EXPECT_EQ(shown[i].first, static_cast<int64_t>(i) + 1);
    const auto loss = static_cast<float>(losses[i].second);
    const std::string value = "loss\x15" + std::string(reinterpret_cast<const char*>(&loss), 4);
    EXPECT_NE(shown[i].second.find(value), std::string::npos) << "step " << i + 1;
  }
}

TEST(TensorBoard, SaysWhatItCannotMakeOrWrite) {
  TempFolder temp;
  std::ofstream(temp.path() + "/tb") << "a file in the way";
  const absl::Status blocked = TensorBoardLog::Open(temp.path() + "/tb", 0).status();
  EXPECT_NE(blocked.message().find(temp.path() + "/tb: cannot make the folder: "),
            absl::string_view::npos)
      << blocked;
  auto log = TensorBoardLog::Open(temp.path() + "/other", 0).value();
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {100, before.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const absl::Status full = log->Write(At(1));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_NE(full.message().find("cannot write: File too large; free some space"),
            absl::string_view::npos)
      << full;
}

}  // namespace
}  // namespace mneme
