// The pulses of all ranks of a job, readable on every host.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "parallel/pulse.h"
#include "parallel/world.h"

namespace mneme {

// Ranks of one host share memory that has no name and goes with the last of them, so that nothing
// is left behind however they end. It has a slot for every rank: those of this host write their
// own, those of others are filled in by a courier (pulse_courier.h). A rank that cannot reach the
// memory of its host is a host of its own.
class PulseBoard {
 public:
  // Collective. `host` names this rank's host. Shows the world's pulse on it, until the next
  // ShowIn, which comes before the board goes. Never fails: at worst each rank is a host of its
  // own.
  static std::unique_ptr<PulseBoard> Make(World& world, const std::string& host);
  ~PulseBoard();
  PulseBoard(const PulseBoard&) = delete;
  PulseBoard& operator=(const PulseBoard&) = delete;

  // By rank; hosts likewise, as each has named its own.
  absl::Span<PulseSlot> slots() { return absl::MakeSpan(slots_, hosts_.size()); }
  const std::vector<std::string>& hosts() const { return hosts_; }
  // By rank: the lowest rank that shares its memory.
  const std::vector<int>& leaders() const { return leaders_; }
  // Of this job and no other; the same on all ranks.
  uint64_t job() const { return job_; }
  // True for the first rank of this host that asks, once.
  bool Claim();

 private:
  struct Memory;
  PulseBoard(int descriptor, size_t ranks);

  int descriptor_;
  size_t bytes_;
  Memory* memory_ = nullptr;
  PulseSlot* slots_ = nullptr;
  std::vector<std::string> hosts_;
  std::vector<int> leaders_;
  uint64_t job_ = 0;
};

}  // namespace mneme
