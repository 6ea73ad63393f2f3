// Bytes that a rank will need, predicted before anything is allocated (pure arithmetic).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "configs/run.h"
#include "kernels/core/device.h"
#include "parallel/layout.h"

namespace mneme {

// By owner, at the moment when their sum is the largest.
struct Footprint {
  int64_t parameters = 0;  // values, and their rounded copies
  int64_t gradients = 0;
  int64_t optimizer = 0;     // moments of the owned ranges, and of the rows
  int64_t tables = 0;        // rows in memory from the start
  bool tables_grow = false;  // with the rows that text touches, which are not in the sum
  int64_t activations = 0;   // of one micro-batch
  int64_t exchange = 0;      // on the way between ranks, and between tables and tokens
  int64_t workspace = 0;     // scratch of ops
  int64_t other = 0;         // ids, maps, counts
  int64_t kept = 0;      // free between blocks in use, or waiting for their size; beside the sum
  int64_t reserved = 0;  // of all these, to be taken as one stretch (Allocator::Reserve)

  int64_t total() const {
    return parameters + gradients + optimizer + tables + activations + exchange + workspace + other;
  }
  // What the device must have.
  int64_t needs() const { return total() + kept; }
  // What stays when no step runs.
  int64_t state() const { return parameters + gradients + optimizer + tables; }
};

// Of the fullest rank. `vocabulary`: ids of the model; `shrink`: of micro-batches (below). The
// stage that takes most counts. A step is rehearsed for it (engine/forecast/rehearsal.h):
// milliseconds, and no memory.
Footprint PredictFootprint(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                           const Device& device = {}, int64_t shrink = 1);
// "weights 12.3 MiB, gradients …, together 61.2 MiB a rank".
std::string Describe(const Footprint& footprint);

// Memory that this process may still take: MemAvailable, or what a cgroup limit leaves, whichever
// is less; −1 unknown.
int64_t AvailableMemory();
// ResourceExhausted with both numbers and the keys to change, where `ranks_on_host` ranks do not
// fit into what their host, or a GPU, has `available`.
absl::Status CheckFits(const Footprint& footprint, int ranks_on_host, int64_t available,
                       const Device& device = {});

// Sequences that a rank computes at once: train.micro_batch, or a choice of about 4,096 tokens on a
// CPU and 65,536 on a GPU, whose kernels want many rows, divided by `shrink`.
int64_t WantedMicroBatch(const TrainConfig& train, int64_t sequence_length, const Device& device,
                         int64_t shrink = 1);

}  // namespace mneme
