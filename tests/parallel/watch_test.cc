// Who is missing, with slots written by hand and a clock that is handed in.
#include "parallel/watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mneme {
namespace {

using testing::HasSubstr;
using testing::Not;
using Verdict = Watch::Verdict;

constexpr double kTimeout = 60.0;

// A job of some ranks as their pulses show it.
class Job {
 public:
  explicit Job(int ranks) : slots_(static_cast<size_t>(ranks)) {
    for (int r = 0; r < ranks; ++r) {
      hosts_.push_back(r % 2 == 0 ? "a" : "b");
      pulses_.push_back(std::make_unique<Pulse>());
      pulses_.back()->ShowIn(&slots_[static_cast<size_t>(r)]);
      pulses_.back()->SetPhase(Phase::kTraining);
      pulses_.back()->SetStep(17);
    }
  }
  Pulse& rank(int r) { return *pulses_[static_cast<size_t>(r)]; }
  void Enter(int r, Collective collective, Axis axis) { rank(r).Enter({collective, axis, 8}); }
  void Beat(int r) { ++slots_[static_cast<size_t>(r)].fields[kBeats]; }
  Watch Judge(int r) { return Watch(slots_, hosts_, r, kTimeout); }

  // Looks every second, for `seconds`; all ranks but `silent` beat. The last verdict, or the first
  // that is not fine.
  Verdict Pass(Watch& watch, int seconds, int silent = -1) {
    for (int s = 0; s < seconds; ++s) {
      for (int r = 0; r < static_cast<int>(slots_.size()); ++r) {
        if (r != silent) Beat(r);
      }
      const Verdict verdict = watch.Look(1.0, {});
      if (verdict != Verdict::kFine) return verdict;
    }
    return Verdict::kFine;
  }

 private:
  std::vector<PulseSlot> slots_;
  std::vector<std::string> hosts_;
  std::vector<std::unique_ptr<Pulse>> pulses_;
};

TEST(Watch, NamesARankThatIsStopped) {
  Job job(4);
  for (int r : {0, 1, 3}) job.Enter(r, Collective::kAllGather, Axis::kMemory);
  Watch watch = job.Judge(0);
  EXPECT_EQ(job.Pass(watch, 59, /*silent=*/2), Verdict::kFine);
  EXPECT_EQ(job.Pass(watch, 2, /*silent=*/2), Verdict::kHangs);
  EXPECT_EQ(
      watch.Line(),
      "rank 2 (host a) has not entered all_gather of axis memory at step 17 for 60 s: stopped "
      "or cut off at step 17 (training); ending the job");
}

TEST(Watch, NamesARankThatStoppedInsideACollective) {
  Job job(3);
  for (int r = 0; r < 3; ++r) job.Enter(r, Collective::kReduceScatter, Axis::kExpertReplicas);
  Watch watch = job.Judge(2);
  EXPECT_EQ(job.Pass(watch, 100, /*silent=*/1), Verdict::kHangs);
  EXPECT_THAT(watch.Line(), HasSubstr("rank 1 (host b) has not left reduce_scatter of axis expert "
                                      "replicas at step 17 for 60 s: stopped"));
}

TEST(Watch, LifeAloneIsNoProgress) {
  Job job(2);
  job.rank(1).SetPhase(Phase::kSaving);
  job.Enter(0, Collective::kAgree, Axis::kHost);
  Watch watch = job.Judge(0);
  EXPECT_EQ(job.Pass(watch, 100), Verdict::kHangs);
  EXPECT_THAT(watch.Line(), HasSubstr("rank 1 (host b) has not entered agree of axis world (hosts) "
                                      "at step 17 for 60 s: alive, but without progress at step 17 "
                                      "(saving)"));
}

// A checkpoint written for hours, a piece a minute; an evaluation; uneven ranks.
TEST(Watch, WaitsAsLongAsAnyRankGetsOn) {
  Job job(3);
  job.Enter(0, Collective::kAgree, Axis::kHost);
  job.Enter(1, Collective::kAgree, Axis::kHost);
  Watch watch = job.Judge(0);
  for (int piece = 0; piece < 200; ++piece) {
    job.rank(2).Progress();
    EXPECT_EQ(job.Pass(watch, 59), Verdict::kFine) << piece;
  }
  EXPECT_EQ(job.Pass(watch, 2), Verdict::kHangs) << "the pieces have ended";
}

TEST(Watch, CollectivesAreProgress) {
  Job job(2);
  Watch watch = job.Judge(0);
  for (int step = 0; step < 100; ++step) {
    job.Enter(0, Collective::kAllReduce, Axis::kWorld);
    EXPECT_EQ(job.Pass(watch, 40), Verdict::kFine);
    job.Enter(1, Collective::kAllReduce, Axis::kWorld);
    job.rank(0).Leave();
    job.rank(1).Leave();
    EXPECT_EQ(job.Pass(watch, 40), Verdict::kFine);
  }
}

// Nobody is waited for: a long computation of all, or one rank alone in a loop.
TEST(Watch, SaysNothingWhereThisRankDoesNotWait) {
  Job job(2);
  job.Enter(1, Collective::kAllReduce, Axis::kWorld);
  Watch watch = job.Judge(0);
  EXPECT_EQ(job.Pass(watch, 10000), Verdict::kFine);
}

// All were stopped, or the machine slept: time that nobody saw pass does not count.
TEST(Watch, ASuspendedJobHasNotWaited) {
  Job job(2);
  job.Enter(0, Collective::kBarrier, Axis::kHost);
  Watch watch = job.Judge(0);
  EXPECT_EQ(job.Pass(watch, 30), Verdict::kFine);
  EXPECT_EQ(watch.Look(1e6, {}), Verdict::kFine);
  EXPECT_FALSE(watch.IsSilent(1));
  EXPECT_EQ(job.Pass(watch, 20), Verdict::kFine);
  EXPECT_EQ(job.Pass(watch, 5), Verdict::kHangs);
}

TEST(Watch, NamesARankThatIsBehind) {
  Job job(3);
  for (int r : {0, 1, 2}) {
    job.Enter(r, Collective::kAllToAll, Axis::kExpert);
    if (r == 1) continue;
    job.rank(r).Leave();
    job.Enter(r, Collective::kAllToAll, Axis::kExpert);
  }
  Watch watch = job.Judge(2);
  EXPECT_EQ(job.Pass(watch, 100), Verdict::kHangs);
  EXPECT_THAT(watch.Line(), HasSubstr("rank 1 (host b) has not entered all_to_all of axis expert"));
  EXPECT_THAT(watch.Line(), HasSubstr("waiting in all_to_all of axis expert, its call 1 there"));
}

TEST(Watch, NamesRanksThatWaitForEachOther) {
  Job job(2);
  job.Enter(0, Collective::kAllReduce, Axis::kWorld);
  job.Enter(1, Collective::kBroadcast, Axis::kMemory);
  Watch watch = job.Judge(0);
  EXPECT_EQ(job.Pass(watch, 100), Verdict::kHangs);
  EXPECT_THAT(watch.Line(), HasSubstr("rank 1 (host b) has not entered all_reduce of axis world"));
  EXPECT_THAT(watch.Line(), HasSubstr("waiting in broadcast of axis memory"));
}

TEST(Watch, SaysThatNothingArrives) {
  Job job(2);
  for (int r : {0, 1}) job.Enter(r, Collective::kAllReduce, Axis::kWorld);
  Watch watch = job.Judge(1);
  EXPECT_EQ(job.Pass(watch, 100), Verdict::kHangs);
  EXPECT_EQ(watch.Line(),
            "rank 1 (host b) waits in all_reduce of axis world, its call 1 there, at step 17 "
            "(training) for 60 s, as all ranks do, and nothing arrives; ending the job");
}

TEST(Watch, NamesAProcessThatDied) {
  Job job(3);
  job.Enter(1, Collective::kAllToAll, Axis::kExpert);
  Watch watch = job.Judge(0);
  EXPECT_EQ(watch.Look(1.0, {}), Verdict::kFine);
  job.rank(2).SetEnded();
  EXPECT_EQ(watch.Look(1.0, {2}), Verdict::kFine) << "came to its end";
  EXPECT_EQ(watch.Look(1.0, {1}), Verdict::kDied);
  EXPECT_THAT(watch.Line(), HasSubstr("rank 1 (host b), process 0, died in all_to_all of axis "
                                      "expert, its call 1 there, at step 17 (training)"));
}

TEST(Watch, NamesAFewOfMany) {
  Job job(9);
  job.Enter(0, Collective::kBarrier, Axis::kHost);
  Watch watch = job.Judge(0);
  EXPECT_EQ(job.Pass(watch, 100), Verdict::kHangs);
  EXPECT_THAT(watch.Line(), HasSubstr("ranks 1 (host b), 2 (host a), 3 (host b), 4 (host a) and 4 "
                                      "more have not entered barrier"));
  EXPECT_THAT(watch.Line(), Not(HasSubstr("8 (host")));
}

// The outer call counts, once; what is shown outlives a move to another slot.
TEST(Pulse, NotesCallsAndMoves) {
  Pulse pulse;
  {
    const InFlight outer(&pulse, {Collective::kAllReduce, Axis::kWorld, 100});
    const InFlight inner(&pulse, {Collective::kAllGather, Axis::kWorld, 25});
    EXPECT_EQ(CallText(pulse.note()), "all_reduce of axis world");
    EXPECT_EQ(pulse.note()[kBytes], 100);
    EXPECT_EQ(pulse.note()[kWaits], 1);
  }
  const InFlight none(nullptr, {});
  PulseSlot slot;
  pulse.ShowIn(&slot);
  EXPECT_EQ(slot.Read()[kWaits], 0);
  EXPECT_EQ(slot.Read()[kCalls], 1);
  EXPECT_EQ(slot.Read()[kProgress], 2);
  pulse.SetStep(4);
  {
    const InPhase saving(pulse, Phase::kSaving);
    EXPECT_EQ(PlaceText(slot.Read()),
              "after all_reduce of axis world, its call 1 there, at step 4 (saving)");
  }
  EXPECT_THAT(PlaceText(slot.Read()), HasSubstr("at step 4 (starting)"));
  EXPECT_EQ(PlaceText(PulseNote{}), "at step 0 (starting)");
}

}  // namespace
}  // namespace mneme
