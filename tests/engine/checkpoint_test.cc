// Checkpoints that are torn, left over, pruned, read elsewhere; saves that fail; signals and locks.
#include "engine/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "data/files.h"
#include "data/hdf5_file.h"
#include "engine/checkpoint/manifest.h"
#include "engine/checkpoint/source.h"
#include "engine/evaluation/evaluate.h"
#include "engine/loaded_model.h"
#include "engine/run_folder.h"
#include "engine/signals.h"
#include "tests/engine/tiny_run.h"
#include "tests/rounding.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

RunConfig Short(const std::string& folder, const std::string& dir,
                const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {
      "train.sequence_length=32", "train.batch_sequences=4", "train.steps=6",
      "train.checkpoint_every=2", "train.keep_last=0",       "run.dir=" + folder + "/" + dir};
  all.insert(all.end(), more.begin(), more.end());
  return TinyRun(folder, all);
}

std::string Step(const RunConfig& config, int64_t step) {
  return config.run.dir + "/checkpoints/step-" + std::to_string(step);
}

std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// What is found on two ranks, and how many were passed over.
std::pair<absl::StatusOr<std::string>, int> Find(const std::string& path) {
  absl::StatusOr<std::string> found = absl::UnknownError("");
  int warnings = 0;
  ThreadWorld::Run(2, [&](World& world) {
    int mine = 0;
    absl::StatusOr<std::string> got =
        FindCheckpoint(world, path, [&](const std::string&) { ++mine; });
    if (world.rank() == 0) {
      found = std::move(got);
      warnings = mine;
    }
  });
  return {found, warnings};
}

// One run on two ranks with checkpoints at 2, 4 and 6, made once for the tests that only read it.
class Torn : public testing::Test {
 protected:
  void SetUp() override {
    config_ = Short(temp_.path(), "run");
    ASSERT_EQ(TrainThreads(2, config_, 6).exit_code, 0);
    newest_ = Step(config_, 6);
    for (const std::string& name : Names(newest_)) whole_[name] = Slurp(newest_ + "/" + name);
  }
  void Restore() {
    for (const auto& [name, bytes] : whole_) Spill(newest_ + "/" + name, bytes);
  }
  void ExpectFallBack(const std::string& what) {
    const auto [found, warnings] = Find(config_.run.dir);
    ASSERT_TRUE(found.ok()) << what << ": " << found.status();
    EXPECT_EQ(*found, Step(config_, 4)) << what;
    EXPECT_EQ(warnings, 1) << what;
    Restore();
  }

  TempFolder temp_;
  RunConfig config_;
  std::string newest_;
  std::map<std::string, std::string> whole_;
};

TEST_F(Torn, AWholeOneIsTaken) {
  EXPECT_EQ(Names(newest_), (std::vector<std::string>{"config.yaml", "manifest.json",
                                                      "rank-00000.h5", "rank-00001.h5"}));
  const auto [found, warnings] = Find(config_.run.dir);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(*found, newest_);
  EXPECT_EQ(warnings, 0);
}

TEST_F(Torn, EveryFileTruncatedMissingOrFlippedFallsBack) {
  for (const auto& [name, bytes] : whole_) {
    const std::string path = newest_ + "/" + name;
    for (const size_t keep : {size_t{0}, bytes.size() / 2, bytes.size() - 1}) {
      Spill(path, bytes.substr(0, keep));
      // A manifest that only lost its last line end still says everything.
      if (name == "manifest.json" && keep == bytes.size() - 1) continue;
      ExpectFallBack(name + " cut to " + std::to_string(keep));
    }
    fs::remove(path);
    ExpectFallBack(name + " removed");
    const RandomKey key = MakeKey(5, name);
    for (uint64_t i = 0; i < 12; ++i) {
      std::string flipped = bytes;
      const size_t at =
          static_cast<size_t>(RandomInt(key, i, static_cast<int64_t>(bytes.size()) - 2));
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << RandomInt(key, 100 + i, 8)));
      if (std::isspace(static_cast<unsigned char>(flipped[at])) &&
          std::isspace(static_cast<unsigned char>(bytes[at]))) {
        continue;  // JSON's own white space says nothing
      }
      Spill(path, flipped);
      ExpectFallBack(name + " flipped at byte " + std::to_string(at));
    }
  }
}

TEST_F(Torn, TheRunGoesOnFromTheOlderOneToTheSameBits) {
  const auto want = CheckpointState(newest_);
  const auto metrics = MetricsState(config_.run.dir + "/metrics.jsonl");
  fs::remove(newest_ + "/manifest.json");
  const Outcome outcome = TrainThreads(2, config_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  EXPECT_EQ(outcome.steps.size(), 2u);
  EXPECT_EQ(CheckpointState(newest_), want);
  EXPECT_EQ(MetricsState(config_.run.dir + "/metrics.jsonl"), metrics);
}

TEST_F(Torn, ConversionTakesNoOlderOneUnasked) {
  const std::string folder = config_.run.dir + "/checkpoints";
  EXPECT_EQ(NewestCheckpoint(folder).value_or(""), newest_);
  Spill(newest_ + "/manifest.json", "");
  const auto newest = NewestCheckpoint(folder);
  ASSERT_TRUE(absl::IsDataLoss(newest.status()));
  EXPECT_THAT(std::string(newest.status().message()),
              testing::AllOf(testing::HasSubstr(newest_), testing::HasSubstr(Step(config_, 4))));
}

TEST_F(Torn, ANamedOneIsNotToldToBeRemoved) {
  Spill(newest_ + "/manifest.json", "");
  const auto found = Find(newest_).first;
  ASSERT_TRUE(absl::IsDataLoss(found.status()));
  EXPECT_THAT(std::string(found.status().message()),
              testing::AllOf(testing::HasSubstr("is no whole checkpoint"),
                             testing::Not(testing::HasSubstr("remove"))));
}

TEST_F(Torn, NoneWholeStopsWithThreeNamingEach) {
  for (const int64_t step : {2, 4, 6}) fs::remove(Step(config_, step) + "/rank-00001.h5");
  const Outcome outcome = TrainThreads(2, config_);
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_TRUE(outcome.steps.empty());
  for (const int64_t step : {2, 4, 6}) {
    EXPECT_NE(outcome.message.find(Step(config_, step)), std::string::npos) << outcome.message;
  }
}

// A manifest may be whole by its own checksum and say what no checkpoint has.
TEST(CheckpointManifest, ShapesThatCannotBeAreRefused) {
  CheckpointManifest sound;
  sound.slices.push_back({"embedding", "value", "f", "d", 2, 4, 8, 24});
  sound.tables.push_back({"table", "f", "g", 3, 8, 4, 1, 2});
  const auto parsed = [](const CheckpointManifest& m) {
    return ParseCheckpointManifest(DumpCheckpointManifest(m), "m.json").status();
  };
  EXPECT_TRUE(parsed(sound).ok()) << parsed(sound);
  const auto refused = [&](const std::string& what, const auto& damage) {
    CheckpointManifest damaged = sound;
    damage(damaged.slices[0], damaged.tables[0]);
    EXPECT_EQ(parsed(damaged).code(), absl::StatusCode::kDataLoss) << what;
  };
  refused("no columns", [](StoredSlice&, StoredTable& t) { t.width = 0; });
  refused("no rows", [](StoredSlice&, StoredTable& t) { t.rows = 0; });
  refused("more than all", [](StoredSlice&, StoredTable& t) { t.count = 9; });
  refused("fewer than none", [](StoredSlice&, StoredTable& t) { t.count = -1; });
  refused("no stride", [](StoredSlice&, StoredTable& t) { t.stride = 0; });
  refused("beyond 64 bits", [](StoredSlice&, StoredTable& t) { t.rows = int64_t{1} << 58; });
  refused("rows beyond the end", [](StoredSlice& s, StoredTable&) { s.end = 9; });
  refused("rows backwards", [](StoredSlice& s, StoredTable&) { s.begin = 5; });
  refused("negative columns", [](StoredSlice& s, StoredTable&) { s.cols = -24; });
  CheckpointManifest parts = sound;
  parts.tables.push_back({"table", "f", "h", 0, 8, 4, 0, 2});
  EXPECT_TRUE(parsed(parts).ok()) << parsed(parts);
  parts.tables[1].width = 5;
  EXPECT_EQ(parsed(parts).code(), absl::StatusCode::kDataLoss);
}

// Hashes are made from these numbers.
TEST(Checkpoint, AVocabularyThatCannotBeIsRefused) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run", {"train.steps=2"});
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  const CheckpointManifest sound = ReadCheckpointManifest(Step(config, 2)).value();
  ASSERT_TRUE(ReadCheckpointMeta(Step(config, 2)).ok());
  const auto status = [&](int64_t VocabularyInfo::*number, int64_t value) {
    CheckpointManifest damaged = sound;
    damaged.vocabulary.*number = value;
    Spill(Step(config, 2) + "/manifest.json", DumpCheckpointManifest(damaged));
    return ReadCheckpointMeta(Step(config, 2)).status();
  };
  for (const int64_t value : {int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{1} << 62}) {
    EXPECT_TRUE(absl::IsDataLoss(status(&VocabularyInfo::canonical_size, value))) << value;
  }
  EXPECT_TRUE(absl::IsDataLoss(status(&VocabularyInfo::eos, sound.vocabulary.size)));
  EXPECT_TRUE(absl::IsDataLoss(status(&VocabularyInfo::pad, -2)));
  EXPECT_TRUE(status(&VocabularyInfo::bos, -1).ok());
}

TEST(Checkpoint, KeepsTheLastAndTheMilestonesAndClearsLeftovers) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run",
                                 {"train.steps=7", "train.checkpoint_every=1", "train.keep_last=2",
                                  "train.milestone_every=3"});
  fs::create_directories(config.run.dir + "/checkpoints/.saving-step-3");
  Spill(config.run.dir + "/checkpoints/.saving-step-3/rank-00000.h5", "half");
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  EXPECT_EQ(Names(config.run.dir + "/checkpoints"),
            (std::vector<std::string>{"step-3", "step-6", "step-7"}));
}

// A kill between the last save and its clearing leaves one too many, and no save comes after it.
TEST(Checkpoint, GoingOnClearsWhatTheLastSaveDidNot) {
  TempFolder temp;
  const std::vector<std::string> more = {"train.steps=7", "train.checkpoint_every=1",
                                         "train.milestone_every=3"};
  const RunConfig config = Short(temp.path(), "run", more);
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  ASSERT_EQ(Names(config.run.dir + "/checkpoints").size(), 7u);
  fs::create_directories(config.run.dir + "/checkpoints/.old-step-7");
  fs::remove(config.run.dir + "/result.json");
  RunConfig again = config;
  again.train.keep_last = 2;
  ASSERT_EQ(TrainThreads(1, again).exit_code, 0);
  EXPECT_EQ(Names(config.run.dir + "/checkpoints"),
            (std::vector<std::string>{"step-3", "step-6", "step-7"}));
}

// A model read for scoring gives the loss that the run gave, on other numbers of ranks too.
TEST(Checkpoint, LoadsWeightsOnAnyRanks) {
  TempFolder temp;
  const std::string set =
      "evaluate.sets=[{name: held_out, data: " + temp.path() + "/held_out, sequences: 5}]";
  const RunConfig config = Short(temp.path(), "run", {set, "parallel.expert=2"});
  const Outcome outcome = TrainThreads(2, config);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  double trained = 0;
  for (const auto& [name, value] : outcome.steps.back().more) {
    if (name == "evaluate/held_out/loss") trained = value;
  }
  ASSERT_GT(trained, 0.1);
  for (const int ranks : {1, 2, 4}) {
    ThreadWorld::Run(ranks, [&](World& world) {
      ParallelConfig parallel;
      parallel.expert = ranks;
      parallel.memory = ranks;
      auto loaded = LoadModel(world, config.run.dir, parallel);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      EXPECT_EQ((*loaded)->position.step, 6);
      const auto held_out = HeldOut::Open(config.evaluate.sets.front(), "reset", 32);
      const auto score =
          Evaluate(world, (*loaded)->context(), (*loaded)->stack(), **held_out, "held_out", 2);
      ASSERT_TRUE(score.ok()) << score.status();
      EXPECT_LT(std::abs(score->loss / trained - 1), 1e-12) << ranks << " ranks";
    });
  }
}

// In bf16 a value stands with its owner alone, and every rank has it rounded: on any layout a
// checkpoint comes in and goes out to the bit, and what is read is its values rounded.
TEST(Checkpoint, MastersPassThroughCheckpoints) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run", {"train.precision=f32"});
  ASSERT_EQ(TrainThreads(2, config).exit_code, 0);
  const auto want = CheckpointState(Step(config, 6));
  std::string from = Step(config, 6);
  struct Case {
    int ranks, expert, memory;
  };
  for (const auto& [ranks, expert, memory] :
       {Case{1, 1, 1}, Case{3, 1, 1}, Case{2, 2, 2}, Case{4, 2, 4}, Case{1, 1, 1}}) {
    const std::string layout = std::to_string(ranks) + "_" + std::to_string(expert);
    const RunConfig rounded =
        Short(temp.path(), "run",
              {"train.precision=bf16", "parallel.expert=" + std::to_string(expert),
               "parallel.memory=" + std::to_string(memory)});
    const std::string to = temp.path() + "/passed_" + layout;
    fs::create_directories(to);
    ThreadWorld::Run(ranks, [&](World& world) {
      ExpectRoundedFrom(want,
                        LoadAndSave(world, test::RoundingKernels(), Device{}, rounded, from, to));
    });
    from = to + "/step-6";  // the next one reads what this one wrote
    EXPECT_EQ(CheckpointState(from), want) << layout;
  }
}

// A table goes to its file and comes from it in pieces of 16 MiB; here a piece holds 256 rows.
TEST(Checkpoint, TablesOfSeveralPiecesPassThroughCheckpoints) {
  TempFolder temp;
  const RunConfig config =
      Short(temp.path(), "run",
            {"model.engram.d_mem=32768", "model.engram.table.store=lazy",
             "train.sequence_length=128", "train.batch_sequences=6", "train.steps=1"});
  ASSERT_EQ(TrainThreads(1, config).exit_code, 0);
  const auto manifest = ReadCheckpointManifest(Step(config, 1));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_EQ(manifest->tables.size(), 1u);
  EXPECT_EQ(manifest->tables[0].width, 8192);
  EXPECT_GT(manifest->tables[0].count, 256);
  const auto want = CheckpointState(Step(config, 1));
  std::string from = Step(config, 1);
  for (const int ranks : {3, 1}) {
    const std::string to = temp.path() + "/passed_" + std::to_string(ranks);
    fs::create_directories(to);
    RunConfig spread = config;
    spread.parallel.memory = ranks;
    ThreadWorld::Run(
        ranks, [&](World& world) { LoadAndSave(world, CpuKernels(), Device{}, spread, from, to); });
    from = to + "/step-1";
    EXPECT_TRUE(CheckpointState(from) == want) << ranks << " ranks";
  }
}

// One row of a matrix a file, as many ranks write them: more files than are kept open.
class ManyFiles : public testing::Test {
 protected:
  static constexpr int64_t kRows = 150;
  static constexpr int64_t kCols = 3;

  void SetUp() override {
    for (int64_t r = 0; r < kRows; ++r) {
      const std::string name = "rank-" + std::to_string(r) + ".h5";
      auto file = H5File::Create(temp_.path() + "/" + name).value();
      const double d = static_cast<double>(r);
      const std::vector<double> row = {d, d + 0.25, d + 0.5};
      ASSERT_TRUE(file->Write("value/w", H5Type::kF64, {1, kCols}, row.data()).ok());
      ASSERT_TRUE(file->Close().ok());
      manifest_.slices.push_back({"w", "value", name, "value/w", r, r + 1, kRows, kCols});
    }
  }
  absl::Status Read(CheckpointSource& source, int64_t begin, int64_t end,
                    std::vector<double>& rows) {
    rows.assign(static_cast<size_t>((end - begin) * kCols), -1.0);
    return source.Read("value", "w", kRows, kCols, begin, end, DType::kF64, rows.data());
  }

  TempFolder temp_;
  CheckpointManifest manifest_;
};

TEST_F(ManyFiles, AnyRowsComeFromWhateverFilesHoldThem) {
  CheckpointSource source(temp_.path(), manifest_);
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>{0, kRows}, {3, 71}, {149, kRows}, {0, 1}, {7, 7}}) {
    std::vector<double> rows;
    const absl::Status status = Read(source, begin, end, rows);
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t row = begin + static_cast<int64_t>(i) / kCols;
      EXPECT_EQ(rows[i], static_cast<double>(row) + 0.25 * static_cast<double>(i % kCols));
    }
  }
}

TEST_F(ManyFiles, WhatIsMissingIsNamed) {
  manifest_.slices.erase(manifest_.slices.begin() + 70);
  CheckpointSource source(temp_.path(), manifest_);
  std::vector<double> rows;
  EXPECT_TRUE(Read(source, 0, 70, rows).ok());
  const absl::Status gap = Read(source, 60, 80, rows);
  EXPECT_EQ(ExitCode(gap), 2);
  EXPECT_NE(gap.message().find("holds 19 of the 20 wanted rows of w"), absl::string_view::npos)
      << gap;
  const auto message = [&](const char* kind, const char* name, int64_t cols) {
    const absl::Status status =
        source.Read(kind, name, kRows, cols, 0, 1, DType::kF64, rows.data());
    EXPECT_EQ(ExitCode(status), 2) << status;
    return std::string(status.message());
  };
  EXPECT_NE(message("adam_m", "w", kCols).find("holds no adam_m of w"), std::string::npos);
  EXPECT_NE(message("value", "v", kCols).find("holds no value of v"), std::string::npos);
  EXPECT_NE(message("value", "w", 2).find("w is 150 x 3 there and 150 x 2 here"),
            std::string::npos);
  fs::remove(temp_.path() + "/rank-5.h5");
  const absl::Status gone = Read(source, 5, 6, rows);
  EXPECT_NE(gone.message().find("rank-5.h5"), absl::string_view::npos) << gone;
}

TEST(Checkpoint, AnotherModelIsRefused) {
  TempFolder temp;
  const RunConfig donor = Short(temp.path(), "donor");
  ASSERT_EQ(TrainThreads(1, donor, 2).exit_code, 75);
  const std::string stages = "stages=[{init_from: " + donor.run.dir + ", steps: 4}]";
  for (const char* change :
       {"model.hidden=32", "model.layers=3", "train.precision=f32", "model.engram.vocab_size=600",
        "optim.matrices=adamw", "model.moe.experts=8"}) {
    const Outcome outcome = TrainThreads(1, Short(temp.path(), "heir", {stages, change}));
    EXPECT_EQ(outcome.exit_code, 2) << change << ": " << outcome.message;
    EXPECT_NE(outcome.message.find("another model"), std::string::npos) << outcome.message;
  }
  // The same shapes, but rows that mean something else.
  for (const char* change : {"model.engram.hash_seed=4", "model.engram.orders=[2,4]",
                             "model.engram.hash_layer_ids=[5]", "model.engram.compression=false"}) {
    const Outcome outcome = TrainThreads(1, Short(temp.path(), "heir", {stages, change}));
    EXPECT_EQ(outcome.exit_code, 2) << change << ": " << outcome.message;
    EXPECT_NE(outcome.message.find("read by another hash"), std::string::npos) << outcome.message;
  }
}

// As a full disk: no file may grow beyond a few KiB.
TEST(Checkpoint, AFailedSaveLeavesNothingHalfWritten) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run");
  ASSERT_EQ(TrainThreads(2, config, 2).exit_code, 75);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {30'000, before.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const Outcome outcome = TrainThreads(2, config);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.message;
  EXPECT_EQ(Names(config.run.dir + "/checkpoints"), (std::vector<std::string>{"step-2"}));
  EXPECT_EQ(TrainThreads(2, config).exit_code, 0);
}

// HDF5 must not trip at exit over the file that it could not close.
TEST(Checkpoint, AFailedSaveEndsTheProcessInOrder) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run");
  EXPECT_EXIT(
      {
        rlimit limit{};
        getrlimit(RLIMIT_FSIZE, &limit);
        limit.rlim_cur = 30'000;
        std::signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        std::exit(TrainThreads(1, config).exit_code);
      },
      testing::ExitedWithCode(1), "");
}

TEST(RunFolder, TwoJobsCannotWriteOneRun) {
  TempFolder temp;
  auto held = FolderLock::Take(temp.path());
  ASSERT_TRUE(held.ok()) << held.status();
  const auto second = FolderLock::Take(temp.path());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("process " + std::to_string(getpid())),
            std::string::npos)
      << second.status();
  { FolderLock gone = std::move(held).value(); }
  EXPECT_TRUE(FolderLock::Take(temp.path()).ok());
}

// A job that could not begin takes its folder away: who waited for its lock has one that is gone.
TEST(RunFolder, ALockThatWasTakenAwayIsTakenAnew) {
  TempFolder temp;
  const std::string folder = temp.path() + "/run";
  auto held = FolderLock::Take(folder);
  ASSERT_TRUE(held.ok()) << held.status();
  absl::StatusOr<FolderLock> second = absl::UnknownError("");
  std::thread waits([&] { second = FolderLock::Take(folder); });
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  fs::remove_all(folder);
  { FolderLock gone = std::move(held).value(); }
  waits.join();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(FolderLock::Take(folder).ok());
}

TEST(RunFolder, WhoseLockAnotherHoldsLeavesItsFiles) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run");
  auto held = FolderLock::Take(config.run.dir);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_NE(TrainThreads(1, config).exit_code, 0);
  EXPECT_TRUE(fs::exists(config.run.dir + "/.lock"));
}

// It may hold checkpoints, over which nothing is to begin anew.
TEST(RunFolder, NothingBeginsOverCheckpointsThatCannotBeListed) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run");
  const RunFolder folder{temp.path()};
  EXPECT_TRUE(CheckMayRun(folder, config).ok());
  std::filesystem::create_symlink("checkpoints", folder.checkpoints());
  const absl::Status status = CheckMayRun(folder, config);
  EXPECT_EQ(status.message(),
            folder.checkpoints() + ": cannot read: Too many levels of symbolic links");
}

// A signal that arrives during step 3, on a run that would make 6.
Outcome TrainWithSignal(const RunConfig& config, int number) {
  Outcome outcome;
  ThreadWorld::Run(2, [&](World& world) {
    TrainHooks hooks;
    hooks.say = [](const std::string&) {};
    hooks.on_step = [&](const StepReport& report) {
      if (report.step == 3) std::raise(number);
    };
    const auto result = Train(world, config, hooks);
    if (world.rank() != 0) return;
    outcome.status = result.status();
    if (result.ok()) outcome.exit_code = result->exit_code;
  });
  ClearSignals();
  return outcome;
}

TEST(Signals, TermAndUsr1SaveAndStop) {
  for (const int number : {SIGTERM, SIGUSR1, SIGINT, SIGHUP, SIGXCPU}) {
    TempFolder temp;
    const RunConfig config = Short(temp.path(), "run", {"train.checkpoint_every=0"});
    EXPECT_EQ(TrainWithSignal(config, number).exit_code, 75);
    EXPECT_EQ(Names(config.run.dir + "/checkpoints"), (std::vector<std::string>{"step-3"}));
    EXPECT_EQ(TrainThreads(2, config).steps.size(), 3u);
  }
}

TEST(Signals, Usr2SavesAndGoesOn) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run", {"train.checkpoint_every=0"});
  EXPECT_EQ(TrainWithSignal(config, SIGUSR2).exit_code, 0);
  EXPECT_EQ(Names(config.run.dir + "/checkpoints"), (std::vector<std::string>{"step-3", "step-6"}));
}

TEST(Signals, ASecondTermLeavesAtOnce) {
  EXPECT_EXIT(
      {
        InstallSignalHandlers();
        std::raise(SIGTERM);
        std::raise(SIGTERM);
      },
      testing::ExitedWithCode(128 + SIGTERM), "");
}

// A shell and the kernel both tell of a closed terminal, and of processor time each second.
TEST(Signals, ASecondHangupLeavesTimeToSave) {
  TempFolder temp;
  const RunConfig config = Short(temp.path(), "run", {"train.checkpoint_every=0"});
  InstallSignalHandlers();
  std::raise(SIGHUP);
  EXPECT_EQ(TrainWithSignal(config, SIGHUP).exit_code, 75);
}

TEST(Train, DivergenceIsSkippedAndThenEndsWithFour) {
  TempFolder temp;
  const RunConfig config =
      Short(temp.path(), "run",
            {"train.precision=f32", "optim.lr=1e30", "train.skip.limit=3", "train.steps=30",
             "train.checkpoint_every=0", "optim.schedule.warmup=0"});
  const Outcome outcome = TrainThreads(2, config);
  EXPECT_EQ(outcome.exit_code, 4) << outcome.message;
  ASSERT_GE(outcome.steps.size(), 3u);
  for (size_t i = outcome.steps.size() - 3; i < outcome.steps.size(); ++i) {
    EXPECT_TRUE(outcome.steps[i].skipped);
  }
}

// Where such a step is not skipped its loss has no number, and a checkpoint no place for it.
TEST(Train, ALossWithoutAValueLeavesCheckpointsWhole) {
  TempFolder temp;
  const std::vector<std::string> keys = {
      "train.precision=f32",     "optim.lr=1e30",       "train.skip.nonfinite=false",
      "train.skip.window=4",     "train.steps=8",       "train.checkpoint_every=1",
      "optim.schedule.warmup=0", "train.keep_last=100", "optim.clip=0"};
  const RunConfig whole = Short(temp.path(), "whole", keys);
  const Outcome outcome = TrainThreads(1, whole);
  ASSERT_EQ(outcome.exit_code, 4) << outcome.message;
  EXPECT_THAT(outcome.message, testing::HasSubstr("the loss is not a number at the last step, 8"));
  EXPECT_FALSE(fs::exists(whole.run.dir + "/result.json"));
  EXPECT_TRUE(std::isfinite(outcome.steps.front().loss));
  ASSERT_FALSE(std::isfinite(outcome.steps.back().loss));
  for (const StepReport& step : outcome.steps) EXPECT_FALSE(step.skipped);
  const auto position = ReadCheckpointPosition(Step(whole, 8));
  ASSERT_TRUE(position.ok()) << position.status();
  EXPECT_EQ(position->updates, 8);
  for (const double loss : position->recent_losses) EXPECT_TRUE(std::isfinite(loss));
  EXPECT_FALSE(position->recent_losses.empty());
  const RunConfig parts = Short(temp.path(), "parts", keys);
  for (const int64_t stop : {3, 6}) ASSERT_EQ(TrainThreads(1, parts, stop).exit_code, 75);
  const Outcome last = TrainThreads(1, parts);
  ASSERT_EQ(last.exit_code, 4) << last.message;
  EXPECT_EQ(last.steps.size(), 2u);
}

// What was good before steps were skipped is what one goes back to.
TEST(Train, SkippedStepsTakeNoCheckpointsPlace) {
  TempFolder temp;
  const RunConfig config = Short(
      temp.path(), "run",
      {"train.precision=f32", "optim.lr=1e30", "train.skip.limit=100", "train.steps=8",
       "train.checkpoint_every=1", "train.keep_last=1", "optim.schedule.warmup=0", "optim.clip=0"});
  const Outcome outcome = TrainThreads(1, config);
  EXPECT_EQ(outcome.exit_code, 4) << outcome.message;
  int64_t good = 0;
  for (const StepReport& step : outcome.steps) good = step.skipped ? good : step.step;
  ASSERT_LT(good, 8);
  EXPECT_EQ(Names(config.run.dir + "/checkpoints"),
            (std::vector<std::string>{"step-" + std::to_string(good)}));
}

TEST(Train, AnOutlierIsSkippedByAllRanks) {
  TempFolder temp;
  // With a threshold of almost nothing every step above the window's mean is an outlier.
  const RunConfig config = Short(temp.path(), "run",
                                 {"train.skip.outlier_sigma=1e-9", "train.skip.window=2",
                                  "optim.lr=1e-9", "train.steps=12", "train.checkpoint_every=0"});
  const Outcome outcome = TrainThreads(2, config);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  int skipped = 0;
  std::vector<double> window;
  for (const StepReport& step : outcome.steps) {
    const bool outlier = window.size() == 2 && step.loss > (window[0] + window[1]) / 2 + 1e-6;
    if (outlier) {
      EXPECT_TRUE(step.skipped) << step.step;
    }
    skipped += step.skipped;
    if (step.skipped) continue;
    window.push_back(step.loss);
    if (window.size() > 2) window.erase(window.begin());
  }
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, 10);
}

}  // namespace
}  // namespace mneme
