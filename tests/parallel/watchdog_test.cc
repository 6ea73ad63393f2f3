// Watchdogs of real ranks, as threads and as processes, on one host and on several.
#include "parallel/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <thread>

#include "parallel/fault_check.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

using testing::HasSubstr;

void Sleep(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

// The last rank stays away from a barrier for `seconds`, telling progress every so often or never
// (0). What was said, over all ranks.
std::vector<std::string> Absence(World& world, WatchdogOptions options, double seconds,
                                 double every) {
  std::mutex mutex;
  std::string said;
  options.on_end = [&](const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex);
    said += line;
  };
  world.StartWatchdog(options);
  world.pulse().SetStep(17);
  world.Barrier();
  if (world.rank() == world.size() - 1) {
    const int pieces = every > 0.0 ? static_cast<int>(seconds / every) : 1;
    for (int i = 0; i < pieces; ++i) {
      Sleep(seconds / pieces);
      world.pulse().Progress();
    }
  }
  world.Barrier();
  world.StartWatchdog({});  // ends
  std::vector<std::string> lines;
  for (const std::string& line : world.AllGather(said)) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

void ExpectOneLine(World& world, const std::vector<std::string>& lines, const std::string& host) {
  ASSERT_EQ(lines.size(), 1u) << world.size() << " ranks";
  EXPECT_THAT(lines[0], HasSubstr("rank " + std::to_string(world.size() - 1) + " (host " + host +
                                  ") has not entered barrier of axis world (hosts) at step 17"));
}

TEST(Watchdog, OneRankSaysWhoIsMissing) {
  OnWorlds([](World& world) {
    if (world.size() == 1) return;
    WatchdogOptions options;
    options.timeout = 0.3;
    ExpectOneLine(world, Absence(world, options, 1.0, 0.0), world.host());
  });
}

// Every two ranks a host; pulses travel in files.
TEST(Watchdog, OneRankOfSeveralHostsSaysWhoIsMissing) {
  OnWorlds([](World& world) {
    if (world.size() < 3) return;
    const auto host = [](int rank) { return "host" + std::to_string(rank / 2); };
    WatchdogOptions options;
    options.timeout = 0.5;
    options.host = host(world.rank());
    options.folder =
        world.Broadcast((std::filesystem::temp_directory_path() / "mneme_watchdog_test_").string() +
                        std::to_string(getpid()));
    ExpectOneLine(world, Absence(world, options, 1.6, 0.0), host(world.size() - 1));
    world.Barrier();
    if (world.rank() != 0) return;
    for (const auto& file : std::filesystem::directory_iterator(options.folder)) {
      EXPECT_THAT(file.path().filename().string(), HasSubstr("claim-")) << "left behind";
    }
    std::filesystem::remove_all(options.folder);
  });
}

TEST(Watchdog, ARankThatGetsOnIsWaitedFor) {
  OnWorlds([](World& world) {
    if (world.size() != 2 && world.size() != 3) return;
    for (const bool hosts : {false, true}) {
      WatchdogOptions options;
      options.timeout = 0.8;
      if (hosts) {
        options.host = "host" + std::to_string(world.rank());
        options.folder = world.Broadcast(
            (std::filesystem::temp_directory_path() / "mneme_watchdog_wait_").string() +
            std::to_string(getpid()));
      }
      EXPECT_TRUE(Absence(world, options, 2.0, 0.1).empty()) << hosts;
      world.Barrier();
      EXPECT_FALSE(hosts && std::filesystem::exists(options.folder)) << "left behind";
    }
  });
}

TEST(Watchdog, ATimeoutOfZeroWaitsForever) {
  OnWorlds([](World& world) {
    if (world.size() != 2) return;
    EXPECT_TRUE(Absence(world, {}, 0.2, 0.0).empty());
  });
}

TEST(Watchdog, AsksWhatLibrariesFoundWhileItsRankWaits) {
  OnWorlds([](World& world) {
    if (world.size() != 2 && world.size() != 3) return;
    WatchdogOptions options;
    options.timeout = 4.0;
    std::atomic<int> asked{0};
    const FaultCheck check([&] { ++asked; });
    EXPECT_TRUE(Absence(world, options, 0.6, 0.1).empty());
    EXPECT_GT(asked, 1);
  });
}

TEST(FaultCheck, WaitsForACallThatRuns) {
  std::atomic<bool> begun{false}, done{false};
  std::thread watchdog;
  {
    const FaultCheck check([&] {
      begun = true;
      Sleep(0.1);
      done = true;
    });
    watchdog = std::thread(FaultCheck::RunAll);
    while (!begun) std::this_thread::yield();
  }
  EXPECT_TRUE(done);
  watchdog.join();
  FaultCheck::RunAll();  // nothing is left to ask
}

}  // namespace
}  // namespace mneme
