// Who is missing: the judgement of a watchdog, with the time handed in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "parallel/pulse.h"

namespace mneme {

// Looks at what all ranks show, again and again. The job hangs where a rank waits in a collective
// and no rank at all has got on for `timeout` seconds: a rank that computes or writes for long
// tells its progress piece by piece, so that those who wait for it keep waiting; one that only
// lives (its watchdog still beats) does not count. One rank's judge, used by one thread.
class Watch {
 public:
  enum class Verdict {
    kFine,
    kHangs,  // some rank must end the job
    kDied,   // a process of this host is gone and did not say why
  };

  // Slots and hosts of all ranks, by rank; borrowed.
  Watch(absl::Span<const PulseSlot> slots, std::vector<std::string> hosts, int rank,
        double timeout);

  // `elapsed`: seconds since the look before. More than an eighth of the timeout is not believed:
  // then this process itself was stopped, or the machine was, and the others may have been too.
  // `gone`: ranks of this host whose process has ended.
  Verdict Look(double elapsed, absl::Span<const int> gone);

  // Its watchdog has not beaten for a quarter of the timeout: stopped, or cut off with its host.
  bool IsSilent(int rank) const { return silent_[static_cast<size_t>(rank)] >= timeout_ / 4; }

  // One line after a verdict: who, where, in which collective of which axis, at which step.
  std::string Line() const;

 private:
  std::vector<int> Where(bool (*is)(const Watch&, int)) const;
  std::string Ranks(const std::vector<int>& ranks) const;
  std::string HangText() const;
  std::string MissingText(const std::vector<int>& missing, const std::string& state) const;
  const PulseNote& note(int rank) const { return notes_[static_cast<size_t>(rank)]; }
  const PulseNote& mine() const { return note(rank_); }

  absl::Span<const PulseSlot> slots_;
  const std::vector<std::string> hosts_;
  const int rank_;
  const double timeout_;
  std::vector<PulseNote> notes_;  // as last seen
  std::vector<double> silent_;    // seconds without a beat
  double quiet_ = 0.0;            // seconds in which no rank got on
  int dead_ = -1;
};

}  // namespace mneme
