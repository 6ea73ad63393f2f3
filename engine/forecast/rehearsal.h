// A step of a run that nobody computes: the model, its optimizer and its exchanges are made and
// driven as in a real step, on a device that holds nothing (kernels/core/dry.h). So memory and work
// are those of the code that will run.
#pragma once

#include <array>
#include <cstdint>

#include "configs/run.h"
#include "engine/forecast/timeline.h"
#include "kernels/core/dry.h"
#include "kernels/core/memory.h"
#include "parallel/layout.h"

namespace mneme {

// Bytes that a rank sends to others in one step.
struct SentBytes {
  int64_t experts = 0;    // tokens to their experts and back
  int64_t rows = 0;       // table rows and their gradients
  int64_t gradients = 0;  // sums over replicas, and the weights gathered back
};

struct Rehearsal {
  std::array<int64_t, kMemoryTags> bytes{};  // by owner, when their sum is the largest
  int64_t peak = 0;                          // that sum
  int64_t taken = 0;     // with what lies free between blocks in use, or waits for their size
  int64_t reserved = 0;  // of that, in one stretch (Allocator::Reserve)
  // A lap ends each rehearsed micro-batch, and the step; others are like those before the last.
  Timeline timeline;
  // What a rank computes in all.
  std::array<WorkDone, kWorks> forward_backward{};
  std::array<WorkDone, kWorks> update{};
  SentBytes sent;
  int64_t micro_batches = 0;
  int64_t tokens = 0;            // of a rank
  int64_t checkpoint_bytes = 0;  // of all ranks: weights and moments, resident rows with theirs
};

// How the router deals: equally, as time is predicted, or to the rank of most experts as much as it
// has room for at once (parallel.expert_room).
enum class Dealt { kEqually, kMost };

// The second step of `stage` on the fullest rank of `layout`; `device` says of which kind (a GPU
// need not be there); `shrink` as in WantedMicroBatch. Empty where the batch cannot be dealt.
Rehearsal Rehearse(const RunConfig& config, const StageConfig& stage, const Layout& layout,
                   int64_t vocabulary, Device device, int64_t shrink = 1,
                   Dealt dealt = Dealt::kEqually);

}  // namespace mneme
