#include "engine/sweep/hang_watch.h"

#include <signal.h>

#include <thread>

#include "tests/data/scratch.h"

namespace mneme {
namespace {

class Hangs : public Scratch {
 protected:
  CellFolder Cell() const { return {folder_.string()}; }
  // The signals of so many seconds, asked for every 20 ms; before each `act` is called.
  template <class Act>
  static std::vector<int> Signals(HangWatch& watch, double seconds, const Act& act) {
    std::vector<int> signals;
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end) {
      act();
      if (const int signal = watch.Signal(); signal != 0) signals.push_back(signal);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return signals;
  }
  static void Nothing() {}
};

TEST_F(Hangs, AreTerminatedAndThenKilled) {
  Put("log.txt", "begins\n");
  HangWatch watch(Cell(), 0.5);
  EXPECT_FALSE(watch.hung());
  EXPECT_EQ(Signals(watch, 3.0, Nothing), (std::vector<int>{SIGTERM, SIGKILL}));
  EXPECT_TRUE(watch.hung());
}

TEST_F(Hangs, AreNotWhereSomethingIsWritten) {
  int count = 0;
  for (const std::string name :
       {"log.txt", "run/metrics.jsonl", "run/checkpoints/step-5/rank.h5"}) {
    HangWatch watch(Cell(), 1.0);
    EXPECT_EQ(Signals(watch, 2.0, [&] { Put(name, std::string(++count, 'x')); }),
              std::vector<int>())
        << name;
    EXPECT_FALSE(watch.hung());
  }
  // A new checkpoint alone is progress too, an unrelated file is none.
  HangWatch watch(Cell(), 1.0);
  EXPECT_EQ(Signals(watch, 2.0, [&] { Put("run/checkpoints/" + std::to_string(++count), ""); }),
            std::vector<int>());
  EXPECT_EQ(Signals(watch, 1.5, [&] { Put("lease." + std::to_string(++count), "x"); }),
            std::vector<int>{SIGTERM});
}

TEST_F(Hangs, AreNeverWhereNobodyAsks) {
  HangWatch watch(Cell(), 0.0);
  EXPECT_EQ(Signals(watch, 0.5, Nothing), std::vector<int>());
}

}  // namespace
}  // namespace mneme
