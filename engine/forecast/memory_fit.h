// How a run gives way where memory is short, before it is refused: micro-batches that nobody chose
// become smaller, and under train.recompute: [auto] parts are computed again on the way back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/run.h"
#include "engine/forecast/footprint.h"

namespace mneme {

// The numbers of a run are the same with any of these.
struct Savings {
  int64_t shrink = 1;                  // of micro-batches (WantedMicroBatch)
  std::vector<std::string> recompute;  // what train.recompute comes to
};

// As the config says; no part under `auto`.
Savings NoSavings(const RunConfig& config);
// Ways to run, in the order in which they are tried; the same on all ranks of a layout. The first
// is NoSavings. Then micro-batches shrink as far as products stay efficient (or to one
// sequence, where recompute is not `auto`); then one or more parts are computed again, the set that
// adds least work (rehearsed, engine/forecast/rehearsal.h) first; then all parts, with
// micro-batches that shrink further.
std::vector<Savings> WaysToSave(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                                const Device& device);
// The first of them with which `ranks_on_host` ranks fit into what is `available` (CheckFits), by
// its number; 0 where none does.
int64_t FirstWayThatFits(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                         const Device& device, int ranks_on_host, int64_t available);

// `config` with the parts named, in place of `auto`.
RunConfig WithSavings(RunConfig config, const Savings& savings);
Footprint PredictFootprint(const RunConfig& config, const Savings& savings, const Layout& layout,
                           int64_t vocabulary, const Device& device);
// "memory is short: 4 sequences at once instead of 8 (…)"; empty where nothing is given up.
std::string Describe(const RunConfig& config, const Savings& savings, const Device& device);

}  // namespace mneme
