#include "kernels/core/part_clock.h"

#include <chrono>

#include "kernels/core/check.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

const Marker& MarkerOf(const Device& device) {
  if (device.is_cpu()) return CpuMarker();
  CHECK(!device.dry && GpuMarker() != nullptr);
  return *GpuMarker();
}

// On the CPU an op has run when it returns.
void* MarkNow(void*, void* used) {
  auto* moment = used != nullptr ? static_cast<Clock::time_point*>(used) : new Clock::time_point;
  *moment = Clock::now();
  return moment;
}
double SecondsBetween(void* from, void* to) {
  return std::chrono::duration<double>(*static_cast<Clock::time_point*>(to) -
                                       *static_cast<Clock::time_point*>(from))
      .count();
}
void Release(void* mark) { delete static_cast<Clock::time_point*>(mark); }

}  // namespace

const char* Name(Part part) {
  static constexpr const char* kNames[kParts] = {"head",   "attention", "feed_forward", "mhc",
                                                 "engram", "exchange",  "reduce",       "clip",
                                                 "muon",   "adamw",     "tables",       "gather"};
  return kNames[static_cast<size_t>(part)];
}

const Marker& CpuMarker() {
  static constexpr Marker kMarker = {MarkNow, SecondsBetween, Release};
  return kMarker;
}

PartClock::PartClock(Stream& stream) : stream_(stream), marker_(MarkerOf(stream.device())) {}

PartClock::~PartClock() {
  stream_.Synchronize();
  for (const auto& [mark, part] : marks_) marker_.release(mark);
  for (void* mark : used_) marker_.release(mark);
}

void PartClock::Mark(Part part) {
  void* used = nullptr;
  if (!used_.empty()) {
    used = used_.back();
    used_.pop_back();
  }
  marks_.emplace_back(marker_.mark(stream_.queue(), used), part);
  part_ = part;
}

void PartClock::Begin() {
  CHECK(!runs_);
  runs_ = true;
  Mark(Part::kHead);
}

Part PartClock::Enter(Part part) {
  const Part before = part_;
  if (runs_ && part != before) Mark(part);
  return before;
}

PartClock::Seconds PartClock::End() {
  CHECK(runs_);
  Mark(Part::kHead);
  runs_ = false;
  stream_.Synchronize();
  Seconds seconds{};
  for (size_t i = 0; i + 1 < marks_.size(); ++i) {
    seconds[static_cast<size_t>(marks_[i].second)] +=
        marker_.seconds(marks_[i].first, marks_[i + 1].first);
  }
  for (const auto& [mark, part] : marks_) used_.push_back(mark);
  marks_.clear();
  return seconds;
}

}  // namespace mneme
