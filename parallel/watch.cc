#include "parallel/watch.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace mneme {
namespace {

constexpr size_t kNamed = 4;  // ranks that a line names one by one

std::string Seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", seconds);
  return text;
}

bool Ended(const PulseNote& note) { return note[kEnded] != 0; }

}  // namespace

Watch::Watch(absl::Span<const PulseSlot> slots, std::vector<std::string> hosts, int rank,
             double timeout)
    : slots_(slots),
      hosts_(std::move(hosts)),
      rank_(rank),
      timeout_(timeout),
      silent_(slots.size(), 0.0) {
  for (const PulseSlot& slot : slots_) notes_.push_back(slot.Read());
}

Watch::Verdict Watch::Look(double elapsed, absl::Span<const int> gone) {
  elapsed = std::min(elapsed, timeout_ / 8);
  bool moved = false;
  for (size_t r = 0; r < slots_.size(); ++r) {
    const PulseNote now = slots_[r].Read();
    silent_[r] = now[kBeats] != notes_[r][kBeats] ? 0.0 : silent_[r] + elapsed;
    moved = moved || now[kProgress] != notes_[r][kProgress] || Ended(now) != Ended(notes_[r]);
    notes_[r] = now;
  }
  quiet_ = moved ? 0.0 : quiet_ + elapsed;
  for (const int r : gone) {
    if (Ended(note(r))) continue;
    dead_ = r;
    return Verdict::kDied;
  }
  return quiet_ >= timeout_ && mine()[kWaits] != 0 ? Verdict::kHangs : Verdict::kFine;
}

std::vector<int> Watch::Where(bool (*is)(const Watch&, int)) const {
  std::vector<int> ranks;
  for (int r = 0; r < static_cast<int>(slots_.size()); ++r) {
    if (r != rank_ && !Ended(note(r)) && is(*this, r)) ranks.push_back(r);
  }
  return ranks;
}

// "rank 2 (host a)", "ranks 2 (host a), 3 (host b) and 5 more".
std::string Watch::Ranks(const std::vector<int>& ranks) const {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < std::min(kNamed, ranks.size()); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(ranks[i]) + " (host " + hosts_[static_cast<size_t>(ranks[i])] + ")";
  }
  if (ranks.size() > kNamed) text += " and " + std::to_string(ranks.size() - kNamed) + " more";
  return text;
}

std::string Watch::MissingText(const std::vector<int>& missing, const std::string& state) const {
  const PulseNote& first = note(missing.front());
  const bool same =
      first[kWaits] != 0 && first[kAxis] == mine()[kAxis] && first[kCalls] == mine()[kCalls];
  return Ranks(missing) + (missing.size() == 1 ? " has" : " have") +
         (same ? " not left " : " not entered ") + CallText(mine()) + " at step " +
         std::to_string(mine()[kStep]) + " for " + Seconds(quiet_) + ": " + state +
         (same ? "" : " " + PlaceText(first));
}

// The rank that the others wait for: one that does not wait, else one that does not live, else one
// that is behind, else one that waits for something else.
std::string Watch::HangText() const {
  const auto busy = Where([](const Watch& watch, int r) { return watch.note(r)[kWaits] == 0; });
  if (!busy.empty()) {
    if (IsSilent(busy.front())) return MissingText(busy, "stopped or cut off");
    return MissingText(busy, "alive, but without progress") +
           " (raise train.collective_timeout if it only needs longer)";
  }
  const auto silent = Where([](const Watch& watch, int r) { return watch.IsSilent(r); });
  if (!silent.empty()) return MissingText(silent, "stopped or cut off");
  const auto behind = Where([](const Watch& watch, int r) {
    return watch.note(r)[kAxis] == watch.mine()[kAxis] &&
           watch.note(r)[kCalls] < watch.mine()[kCalls];
  });
  if (!behind.empty()) return MissingText(behind, "waiting");
  const auto elsewhere = Where([](const Watch& watch, int r) {
    return watch.note(r)[kAxis] != watch.mine()[kAxis] ||
           watch.note(r)[kCollective] != watch.mine()[kCollective];
  });
  if (!elsewhere.empty()) return MissingText(elsewhere, "waiting");
  return Ranks({rank_}) + " waits " + PlaceText(mine()) + " for " + Seconds(quiet_) +
         ", as all ranks do, and nothing arrives";
}

std::string Watch::Line() const {
  if (dead_ < 0) return HangText() + "; ending the job";
  return Ranks({dead_}) + ", process " + std::to_string(note(dead_)[kProcess]) + ", died " +
         PlaceText(note(dead_)) + "; ending the job";
}

}  // namespace mneme
