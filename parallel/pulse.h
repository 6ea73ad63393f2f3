// What a rank shows of itself while it runs: which collective it is in, at which step, and that it
// gets on. Others read it without asking it (watchdog.h): a rank that hangs does not answer.
//
// Nothing here knows how bytes travel. A transport whose calls return when they are done brackets
// them with InFlight. One that only queues them enters when the host begins to wait for its queue,
// with the oldest call that it has not seen finish.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace mneme {

enum class Collective {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kExchangeCounts,
  kSplit,
  kBarrier,
  kAgree,
  kFinish,
};
// kHost: agreements of the hosts over all ranks (World); the others are those of a Mesh.
enum class Axis { kHost, kWorld, kExpert, kExpertReplicas, kMemory, kMemoryReplicas, kOther };
inline constexpr int kAxes = 7;
// What a rank is about when it is in no collective.
enum class Phase { kStarting, kLoading, kTraining, kEvaluating, kSaving, kEnding };

// "all_gather", "expert replicas", "saving".
const char* Name(Collective collective);
const char* Name(Axis axis);
const char* Name(Phase phase);

// One call of a collective. Bytes: of this rank's part.
struct Call {
  Collective collective = Collective::kBarrier;
  Axis axis = Axis::kHost;
  int64_t bytes = 0;
};

// A moment of a rank, as numbers that can lie in shared memory and travel in files.
enum PulseField {
  kBeats,     // of its watchdog: it lives
  kProgress,  // collectives entered and left, pieces of work done: it gets on
  kStep,      // being done, or done last
  kPhase,     // Phase
  kWaits,     // 1 inside a collective
  kCollective,
  kAxis,     // of that collective, or of the last one
  kCalls,    // collectives of that axis begun so far, it included
  kBytes,    // of it
  kProcess,  // its id on its host
  kEnded,    // 1: came to its end in order, or has told itself why not
  kPulseFields,
};
using PulseNote = std::array<int64_t, kPulseFields>;

// Written by one rank, read by any; fields are whole one by one, which is enough for a rank that
// does not move.
struct alignas(128) PulseSlot {
  std::array<std::atomic<int64_t>, kPulseFields> fields{};

  PulseNote Read() const;
  void Write(const PulseNote& note);
};
static_assert(std::atomic<int64_t>::is_always_lock_free, "slots are shared between processes");

// The writing side. One a rank, used by its thread; owned by its World.
class Pulse {
 public:
  Pulse() = default;
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  // From now on everything is shown in `slot`, which lives until the next ShowIn; null: to nobody.
  void ShowIn(PulseSlot* slot);

  // Around a collective; in pairs. A call within a call counts to the outer one.
  void Enter(const Call& call);
  void Leave();
  // A piece of work is done: of a long transfer, a file, a micro-batch.
  void Progress() { Add(kProgress, 1); }
  void SetStep(int64_t step) { Set(kStep, step); }
  // Returns what it was about before.
  Phase SetPhase(Phase phase);
  void SetEnded() { Set(kEnded, 1); }

  // Spent in collectives so far, those that have ended: moving, adding up, and waiting for others.
  double seconds_in_calls() const { return seconds_in_calls_; }
  // What it shows now.
  PulseNote note() const { return slot_->Read(); }

 private:
  void Set(PulseField field, int64_t value) {
    slot_->fields[field].store(value, std::memory_order_relaxed);
  }
  void Add(PulseField field, int64_t value) {
    slot_->fields[field].fetch_add(value, std::memory_order_relaxed);
  }

  PulseSlot own_;
  PulseSlot* slot_ = &own_;
  int depth_ = 0;
  std::array<int64_t, kAxes> calls_{};
  std::chrono::steady_clock::time_point entered_;
  double seconds_in_calls_ = 0.0;
};

// One collective, from here to the end of the block. `pulse` may be null.
class InFlight {
 public:
  InFlight(Pulse* pulse, const Call& call) : pulse_(pulse) {
    if (pulse_ != nullptr) pulse_->Enter(call);
  }
  ~InFlight() {
    if (pulse_ != nullptr) pulse_->Leave();
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

 private:
  Pulse* pulse_;
};

// What a rank is about, from here to the end of the block.
class InPhase {
 public:
  InPhase(Pulse& pulse, Phase phase) : pulse_(pulse), before_(pulse.SetPhase(phase)) {}
  ~InPhase() { pulse_.SetPhase(before_); }
  InPhase(const InPhase&) = delete;
  InPhase& operator=(const InPhase&) = delete;

 private:
  Pulse& pulse_;
  Phase before_;
};

// "all_gather of axis memory"; "in all_gather of axis memory, its call 12 there, at step 17
// (training)", or "after ..." between two.
std::string CallText(const PulseNote& note);
std::string PlaceText(const PulseNote& note);

}  // namespace mneme
