// Bytes that a rank will need, predicted before anything is allocated (pure arithmetic).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "configs/run.h"
#include "kernels/core/device.h"
#include "parallel/layout.h"

namespace mneme {

struct Footprint {
  int64_t parameters = 0;  // values
  int64_t gradients = 0;
  int64_t optimizer = 0;     // moments of the owned ranges
  int64_t tables = 0;        // resident rows with moments
  bool tables_grow = false;  // with the touched rows, which nobody counted
  int64_t activations = 0;   // of one micro-batch: an estimate

  int64_t total() const { return parameters + gradients + optimizer + tables + activations; }
};

// Of the fullest rank. `vocabulary`: ids of the model. The stage with the largest micro-batch
// counts.
Footprint PredictFootprint(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                           const Device& device = {});
// "weights 12.3 MiB, gradients …, together 61.2 MiB a rank".
std::string Describe(const Footprint& footprint);
// "1.5 GiB".
std::string FormatBytes(int64_t bytes);

// Memory that this process may still take: MemAvailable, or what a cgroup limit leaves, whichever
// is less; −1 unknown.
int64_t AvailableMemory();
// ResourceExhausted with both numbers and the keys to change, where `ranks_on_host` ranks do not
// fit into what their host, or a GPU, has `available`.
absl::Status CheckFits(const Footprint& footprint, int ranks_on_host, int64_t available,
                       const Device& device = {});

// Sequences that a rank computes at once: train.micro_batch, or a choice of about 4,096 tokens on a
// CPU and 32,768 on a GPU, whose matrix products want many rows.
int64_t WantedMicroBatch(const TrainConfig& train, int64_t sequence_length, const Device& device);

}  // namespace mneme
