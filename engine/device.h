// Which device a rank computes on.
#pragma once

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "kernels/core/device.h"
#include "parallel/world.h"

namespace mneme {

// As `device` asks: auto takes a GPU where this program can use one, gpu insists. A rank that sees
// all GPUs of its host takes the one of its number there; a rank that sees one takes that. Errors:
// no usable GPU (with the driver's reason), fewer GPUs than ranks, two ranks on one GPU unless
// parallel.share_device, more than one rank (no transport between GPUs yet), f64. Collective; the
// same status on every rank.
absl::StatusOr<Device> ChooseDevice(World& world, const RunConfig& config);

// "NVIDIA H200, 140.4 GiB free of 139.8 GiB"; "cpu".
std::string DescribeDevice(const Device& device);

}  // namespace mneme
