// Which device a rank computes on.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "configs/run.h"
#include "kernels/core/device.h"
#include "parallel/layout.h"
#include "parallel/world.h"

namespace mneme {

// As `device` asks: auto takes a GPU where this program can use one, gpu insists. A rank that sees
// all GPUs of its host takes the one of its number there; a rank that sees one takes that. Errors:
// no usable GPU (with the driver's reason), fewer GPUs than ranks, two ranks on one GPU unless
// parallel.share_device, more than one rank in a program without NCCL, what is unmet.
// Collective; the same status on every rank.
absl::StatusOr<Device> ChooseDevice(World& world, const RunConfig& config);

// The number of a rank's GPU among the `visible` ones: its own on its host, or the only one. Error:
// fewer than ranks.
absl::StatusOr<int> GpuOfRank(int local_rank, int visible);

// Refuses what cannot work, by the places of all ranks ("" for a CPU, else "host pci-id"): some on
// GPUs and some not, two on one GPU unless parallel.share_device, several GPUs without NCCL.
absl::Status CheckPlaces(const RunConfig& config, const std::vector<std::string>& places);

// Something that a configuration asks for and the ops of a device do not do.
struct Unmet {
  std::string message;  // the key, why, what to do
  std::string mend;     // as a word to type: key=value
};

// The precision, the store of tables and the sizes of kernels/limits.h, for a device that need not
// be there. ChooseDevice refuses what is found here.
std::vector<Unmet> WhatIsUnmet(const RunConfig& config, const Device& device);

// Likewise of a batch: more micro-batches than an update of tables takes.
std::optional<Unmet> UnmetByUpdates(const RunConfig& config, const BatchPlan& plan,
                                    const Device& device);

// What NCCL keeps of each GPU of a run of several ranks, beside the pool: its groups, and buffers
// for each GPU of a host that rows, tokens and sums go to. By eight layouts of two and four GPUs
// (docs/results.md, Plans against runs), of which it is within 0.1 GB.
int64_t CommunicatorBytes(const Device& device, const Layout& layout);

// "NVIDIA H200, 139.3 GiB free of 139.8 GiB"; "cpu".
std::string DescribeDevice(const Device& device);

}  // namespace mneme
