#include "parallel/pulse.h"

#include <iterator>

namespace mneme {
namespace {

constexpr const char* kCollectives[] = {"all_reduce", "reduce_scatter",  "all_gather", "all_to_all",
                                        "broadcast",  "exchange_counts", "split",      "barrier",
                                        "agree",      "finish"};
constexpr const char* kAxisNames[] = {
    "world (hosts)", "world", "expert", "expert replicas", "memory", "memory replicas", "other"};
constexpr const char* kPhases[] = {"starting",   "loading", "training",
                                   "evaluating", "saving",  "ending"};
static_assert(std::size(kAxisNames) == kAxes);

// Notes may come from a file.
template <size_t N>
const char* At(const char* const (&names)[N], int64_t index) {
  return index >= 0 && index < static_cast<int64_t>(N) ? names[index] : "?";
}

}  // namespace

const char* Name(Collective collective) { return kCollectives[static_cast<int>(collective)]; }
const char* Name(Axis axis) { return kAxisNames[static_cast<int>(axis)]; }
const char* Name(Phase phase) { return kPhases[static_cast<int>(phase)]; }

PulseNote PulseSlot::Read() const {
  PulseNote note{};
  for (size_t i = 0; i < note.size(); ++i) note[i] = fields[i].load(std::memory_order_relaxed);
  return note;
}

void PulseSlot::Write(const PulseNote& note) {
  for (size_t i = 0; i < note.size(); ++i) fields[i].store(note[i], std::memory_order_relaxed);
}

void Pulse::ShowIn(PulseSlot* slot) {
  if (slot == nullptr) slot = &own_;
  slot->Write(slot_->Read());
  slot_ = slot;
}

void Pulse::Enter(const Call& call) {
  if (depth_++ > 0) return;
  entered_ = std::chrono::steady_clock::now();
  const auto axis = static_cast<size_t>(call.axis);
  Set(kCollective, static_cast<int64_t>(call.collective));
  Set(kAxis, static_cast<int64_t>(call.axis));
  Set(kCalls, ++calls_[axis]);
  Set(kBytes, call.bytes);
  Set(kWaits, 1);
  Progress();
}

void Pulse::Leave() {
  if (--depth_ > 0) return;
  Set(kWaits, 0);
  Progress();
  seconds_in_calls_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - entered_).count();
}

Phase Pulse::SetPhase(Phase phase) {
  return static_cast<Phase>(
      slot_->fields[kPhase].exchange(static_cast<int64_t>(phase), std::memory_order_relaxed));
}

std::string CallText(const PulseNote& note) {
  return std::string(At(kCollectives, note[kCollective])) + " of axis " +
         At(kAxisNames, note[kAxis]);
}

std::string PlaceText(const PulseNote& note) {
  const std::string when =
      "at step " + std::to_string(note[kStep]) + " (" + At(kPhases, note[kPhase]) + ")";
  if (note[kCalls] == 0) return when;
  return (note[kWaits] != 0 ? "in " : "after ") + CallText(note) + ", its call " +
         std::to_string(note[kCalls]) + " there, " + when;
}

}  // namespace mneme
