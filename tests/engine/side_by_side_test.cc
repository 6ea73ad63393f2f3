// Runs side by side in one process: each is the run that it is alone, whatever becomes of the
// others.
#include "engine/side_by_side.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "data/files.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/forecast/footprint.h"
#include "engine/machine/device_room.h"
#include "engine/run_folder.h"
#include "engine/signals.h"
#include "kernels/core/check.h"
#include "parallel/world.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using testing::HasSubstr;

class SideBySide : public testing::Test {
 protected:
  // In a folder and with a log of its own.
  RunConfig Config(const std::string& dir, std::vector<std::string> more = {}) {
    TinyRun(temp_.path(), {});  // makes the corpora
    std::vector<std::string> all = {
        "run.dir=" + Path(dir),
        "run.log=" + Path(dir + ".log"),
        "train.sequence_length=48",
        "train.batch_sequences=6",
        "train.precision=f32",
        "train.keep_last=0",
        "evaluate.sets=[{name: held_out, data: " + Path("held_out") + ", sequences: 8}]"};
    all.insert(all.end(), more.begin(), more.end());
    return TinyRun(temp_.path(), all);
  }
  std::string Path(const std::string& name) const { return temp_.path() + "/" + name; }
  std::string Text(const std::string& name) const { return ReadFileBytes(Path(name)).value_or(""); }
  std::string Checkpoint(const std::string& dir, int64_t step) const {
    return Path(dir + "/checkpoints/step-" + std::to_string(step));
  }
  void ExpectSame(const std::string& dir, const std::string& other, int64_t step) {
    EXPECT_EQ(CheckpointState(Checkpoint(dir, step)), CheckpointState(Checkpoint(other, step)));
    EXPECT_EQ(MetricsState(Path(dir + "/metrics.jsonl")),
              MetricsState(Path(other + "/metrics.jsonl")));
    EXPECT_EQ(MetricsState(Path(dir + "/metrics.jsonl")).size(), static_cast<size_t>(step));
    EXPECT_EQ(Text(dir + "/documents.json"), Text(other + "/documents.json"));
    EXPECT_NE(Text(dir + "/documents.json"), "");
  }
  int64_t LastStep(const std::string& dir) const {
    const std::vector<std::string> whole = ListCheckpoints(Path(dir + "/checkpoints"));
    return whole.empty() ? 0 : ReadCheckpointPosition(whole.front())->step;
  }
  // Returns when each of these runs has told of a step, or after a minute.
  void AwaitSteps(const std::vector<std::string>& dirs) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (const std::string& dir : dirs)
      while (Text(dir + "/metrics.jsonl").find('\n') == std::string::npos &&
             std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }

  TempFolder temp_;
};

// Models, batches and seeds of many sizes, and checkpoints at the same time.
TEST_F(SideBySide, EachHasTheBitsThatItHasAlone) {
  const std::vector<std::vector<std::string>> kinds = {
      {"train.checkpoint_every=5"},
      {"train.checkpoint_every=5", "train.seed=1", "data.seed=1", "model.moe.experts=12",
       "model.engram.vocab_size=700"},
      {"train.checkpoint_every=5", "model.engram.blocks=[]", "model.hidden=32"},
      {"train.checkpoint_every=7", "train.batch_sequences=12", "model.mhc.streams=1"}};
  std::vector<NamedRun> runs;
  for (size_t i = 0; i < kinds.size(); ++i)
    runs.push_back({"config " + std::to_string(i), Config("beside" + std::to_string(i), kinds[i])});
  std::vector<std::string> told;
  SideBySideHooks hooks;
  hooks.on_end = [&](const RunEnd& end) { told.push_back(end.config); };
  const std::vector<RunEnd> ends = TrainSideBySide(runs, hooks);
  ASSERT_EQ(ends.size(), kinds.size());
  EXPECT_EQ(told.size(), kinds.size());
  EXPECT_EQ(ExitCodeOf(ends), 0);
  for (size_t i = 0; i < kinds.size(); ++i) {
    const std::string n = std::to_string(i);
    EXPECT_EQ(ends[i].config, "config " + n);
    EXPECT_EQ(ends[i].exit_code, 0) << ends[i].message;
    ASSERT_EQ(TrainThreads(1, Config("alone" + n, kinds[i])).exit_code, 0);
    ExpectSame("beside" + n, "alone" + n, 20);
    EXPECT_THAT(Text("beside" + n + ".log"), HasSubstr("folder  " + Path("beside" + n)));
    EXPECT_THAT(Text("beside" + n + ".log"), HasSubstr(ends[i].message));
    EXPECT_THAT(Text("beside" + n + ".log"),
                testing::Not(HasSubstr("beside" + std::to_string(i + 1))));
  }
}

TEST_F(SideBySide, OneThatFailsEndsAlone) {
  const RunConfig sound = Config("sound");
  const RunConfig absent = Config("absent", {"data.train=" + Path("nowhere")});
  const RunConfig diverging =
      Config("diverging", {"optim.lr=1e30", "train.skip.limit=3", "optim.schedule.warmup=0"});
  RunConfig refused = Config("refused");
  refused.train.precision = "bf16";  // not on a CPU
  RunConfig deaf = Config("deaf");
  deaf.run.log = Path("no/such/folder/log");
  const std::vector<RunEnd> ends = TrainSideBySide({{"absent", absent},
                                                    {"sound", sound},
                                                    {"diverging", diverging},
                                                    {"refused", refused},
                                                    {"deaf", deaf}});
  EXPECT_EQ(ends[0].exit_code, 3) << ends[0].message;
  EXPECT_THAT(ends[0].message, HasSubstr("nowhere"));
  EXPECT_THAT(Text("absent.log"), HasSubstr("mneme: " + ends[0].message));
  EXPECT_EQ(ends[1].exit_code, 0) << ends[1].message;
  EXPECT_EQ(ends[2].exit_code, 4) << ends[2].message;
  EXPECT_EQ(ends[3].exit_code, 2) << ends[3].message;
  EXPECT_EQ(ends[4].exit_code, 3) << ends[4].message;
  EXPECT_EQ(ExitCodeOf(ends), 3);
  EXPECT_EQ(ExitCodeOf({ends[1]}), 0);
  EXPECT_EQ(ExitCodeOf({ends[1], ends[2]}), 4);
  ASSERT_EQ(TrainThreads(1, Config("alone")).exit_code, 0);
  ExpectSame("sound", "alone", 20);
}

TEST_F(SideBySide, WhatHasNoRoomIsNotBegun) {
  const std::vector<NamedRun> runs = {
      {"first", Config("first")}, {"second", Config("second")}, {"third", Config("third")}};
  const Layout layout = MakeLayout(runs[0].run.parallel, 1).value();
  const int64_t needs = PredictFootprint(runs[0].run, layout, 258).needs();
  SideBySideHooks hooks;
  hooks.memory = 2 * needs + needs / 2;
  const std::vector<RunEnd> ends = TrainSideBySide(runs, hooks);
  EXPECT_EQ(ends[0].exit_code, 0) << ends[0].message;
  EXPECT_EQ(ends[1].exit_code, 0) << ends[1].message;
  EXPECT_FALSE(ends[1].no_room);
  EXPECT_TRUE(ends[2].no_room);
  EXPECT_EQ(ends[2].exit_code, 75);
  EXPECT_THAT(ends[2].message, HasSubstr("no room beside the other runs on cpu"));
  EXPECT_FALSE(std::filesystem::exists(Path("third")));
  EXPECT_EQ(ExitCodeOf(ends), 75);
  EXPECT_THAT(
      RunEndJson(ends[2]),
      HasSubstr("{\"config\": \"third\", \"exit_code\": 75, \"no_room\": true, \"message\""));
  // Too little for one is an error of that one.
  hooks.memory = 1000;
  const std::vector<RunEnd> none = TrainSideBySide({{"third", Config("third")}}, hooks);
  EXPECT_EQ(none[0].exit_code, 1);
  EXPECT_FALSE(none[0].no_room);
  EXPECT_THAT(none[0].message, HasSubstr("not enough memory"));
}

// A signal to the process while two of three runs are in the middle: all of them answer.
TEST_F(SideBySide, AllSaveAndStopOnASignal) {
  const std::vector<std::string> kLong = {"train.steps=100000", "train.checkpoint_every=0"};
  const std::vector<NamedRun> runs = {{"short", Config("short", {"train.steps=3"})},
                                      {"one", Config("one", kLong)},
                                      {"two", Config("two", kLong)}};
  SideBySideHooks hooks;
  hooks.on_end = [&](const RunEnd& end) {
    if (end.config != "short") return;
    AwaitSteps({"one", "two"});
    std::raise(SIGTERM);
  };
  const std::vector<RunEnd> ends = TrainSideBySide(runs, hooks);
  ClearSignals();
  EXPECT_EQ(ends[0].exit_code, 0) << ends[0].message;
  EXPECT_EQ(ExitCodeOf(ends), 75);
  for (const std::string dir : {"one", "two"}) {
    const int64_t step = LastStep(dir);
    ASSERT_GT(step, 0) << dir;
    const std::vector<std::string> more = {"train.steps=" + std::to_string(step + 4),
                                           "train.checkpoint_every=0"};
    EXPECT_EQ(TrainThreads(1, Config(dir, more)).steps.size(), 4u);
    EXPECT_EQ(TrainThreads(1, Config(dir + "_whole", more)).exit_code, 0);
    ExpectSame(dir, dir + "_whole", step + 4);
  }
}

TEST_F(SideBySide, AllSaveOnASignalAndGoOn) {
  const std::vector<std::string> kLong = {"train.steps=150", "train.checkpoint_every=0"};
  const std::vector<NamedRun> runs = {{"short", Config("short", {"train.steps=3"})},
                                      {"one", Config("one", kLong)},
                                      {"two", Config("two", kLong)}};
  SideBySideHooks hooks;
  hooks.on_end = [&](const RunEnd& end) {
    if (end.config != "short") return;
    AwaitSteps({"one", "two"});
    std::raise(SIGUSR2);
  };
  EXPECT_EQ(ExitCodeOf(TrainSideBySide(runs, hooks)), 0);
  for (const std::string dir : {"one", "two"})
    EXPECT_EQ(ListCheckpoints(Path(dir + "/checkpoints")).size(), 2u) << dir;
}

TEST(SideBySideDeathTest, TheLastWordsOfTheProcessNameTheRun) {
  EXPECT_EXIT(ThreadWorld::RunApart(2,
                                    [](int number, World& world) {
                                      world.SetName("run number " + std::to_string(number));
                                      if (number == 1) Fatal("file", 7, "broken");
                                      std::this_thread::sleep_for(std::chrono::seconds(60));
                                    }),
              testing::ExitedWithCode(1), "file:7: broken; run number 1");
}

TEST(DeviceRoomTest, DealsInOrderAndTakesBack) {
  DeviceRoom room(4, 100);
  const Device gpu{Device::Kind::kGpu, 0}, other{Device::Kind::kGpu, 1};
  const auto look = []() -> int64_t { return -7; };
  EXPECT_EQ(room.Free(gpu, look), 100);
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_TRUE(room.Take(0, gpu, 70));  // before the others, who wait for it
  });
  EXPECT_FALSE(room.Take(1, gpu, 40));
  late.join();
  EXPECT_TRUE(room.refused(1));
  EXPECT_EQ(room.HeldByOthers(1, gpu), 70);
  EXPECT_EQ(room.Free(other, look), 100);
  EXPECT_TRUE(room.Take(2, other, 90));
  room.Leave(0);
  EXPECT_TRUE(room.Take(3, gpu, 40));
  EXPECT_FALSE(room.refused(3));
}

TEST(DeviceRoomTest, WhatIsNotKnownRefusesNobody) {
  DeviceRoom room(2);
  EXPECT_EQ(room.Free(Device(), [] { return int64_t{-1}; }), -1);
  EXPECT_EQ(room.Free(Device(), [] { return int64_t{5}; }), -1) << "looked up once";
  EXPECT_TRUE(room.Take(0, Device(), 1000));
  EXPECT_TRUE(room.Take(1, Device(), 1000));
}

}  // namespace
}  // namespace mneme
