// A step as its queues were given it, and when what of it happens at the rates of a device (pure
// arithmetic).
#pragma once

#include <array>
#include <vector>

#include "configs/device_rates.h"
#include "kernels/core/dry.h"

namespace mneme {

struct Timeline {
  std::vector<Queued> main;
  std::vector<Queued> side;  // kernels/core/side.h; empty where there is none
  bool recorded = false;     // replayed as a whole: the host gives nothing one by one
};

// Up to a moment, of the main queue.
struct Moment {
  double seconds = 0.0;               // since the step began
  std::array<double, kWorks> work{};  // at full pace
  double calls = 0.0;                 // what ops cost beside their work
  double waiting() const;             // the rest: it stood still, or was slowed down
};

// At each lap of the main queue. What the side does takes its time beside the main queue, which
// goes on at a lower pace as long (DeviceRates::beside), and a mark holds a queue, or the host, up
// until it is reached. `threads`: of a rank on a CPU; a GPU is one.
std::vector<Moment> Play(const Timeline& timeline, const DeviceRates& rates, int threads);

}  // namespace mneme
