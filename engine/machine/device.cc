#include "engine/machine/device.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "configs/text.h"
#include "kernels/core/check.h"
#include "kernels/core/driver.h"
#include "kernels/limits.h"
#include "parallel/nccl_comm.h"

namespace mneme {
namespace {

absl::Status NoGpu(const RunConfig& config, const std::string& why) {
  return absl::FailedPreconditionError("device: " + config.device + " is asked for, but " + why +
                                       "; device=cpu, or device=auto, computes on the CPU");
}

// This rank's number among those of its host.
int LocalRank(World& world) {
  const std::vector<std::string> hosts = world.AllGather(world.host());
  int before = 0;
  for (int r = 0; r < world.rank(); ++r) before += hosts[static_cast<size_t>(r)] == world.host();
  return before;
}

// The GPU of this rank; the CPU where `auto` finds none.
absl::StatusOr<Device> Mine(const RunConfig& config, int local_rank) {
  if (config.device == "cpu") return Device{};
  const bool insists = config.device != "auto";
  if (!insists && config.train.precision == "f64") return Device{};
  std::string why = "this program was built without CUDA";
  const Driver* driver = GpuDriver();
  const int count = driver == nullptr ? 0 : driver->count(&why);
  if (count == 0) {
    if (insists) return NoGpu(config, why);
    return Device{};
  }
  ASSIGN_OR_RETURN(const int index, GpuOfRank(local_rank, count));
  const std::string unsupported = driver->unsupported(index);
  if (!unsupported.empty()) {
    if (insists) return NoGpu(config, unsupported);
    return Device{};
  }
  return Device{Device::Kind::kGpu, index};
}

}  // namespace

absl::StatusOr<int> GpuOfRank(int local_rank, int visible) {
  if (visible == 1) return 0;
  if (local_rank < visible) return local_rank;
  return absl::FailedPreconditionError(
      "device: rank " + std::to_string(local_rank) + " of this host has no GPU: it has " +
      std::to_string(visible) + "; start at most that many ranks a host");
}

absl::Status CheckPlaces(const RunConfig& config, const std::vector<std::string>& places) {
  std::map<std::string, size_t> first;
  for (size_t r = 0; r < places.size(); ++r) {
    if (places[r].empty() != places[0].empty()) {
      return absl::FailedPreconditionError(
          "device: rank 0 has " + (places[0].empty() ? "no GPU" : "GPU " + places[0]) +
          " and rank " + std::to_string(r) + (places[r].empty() ? " has none" : " has one") +
          "; set device=cpu, or give every rank a GPU");
    }
    if (places[r].empty()) continue;
    const auto [at, fresh] = first.emplace(places[r], r);
    if (!fresh && !config.parallel.share_device) {
      return absl::FailedPreconditionError(
          "device: ranks " + std::to_string(at->second) + " and " + std::to_string(r) +
          " would share GPU " + places[r] +
          "; start fewer ranks, or set parallel.share_device=true");
    }
  }
  const bool shared = first.size() < places.size();
  if (!places[0].empty() && places.size() > 1 && !shared && !HasNccl()) {
    return absl::FailedPreconditionError(
        "device: " + std::to_string(places.size()) +
        " ranks on GPUs reach each other over NCCL, and this program was built without it; start "
        "one rank, set device=cpu, or install NCCL (libnccl-dev) and build again");
  }
  return absl::OkStatus();
}

std::vector<Unmet> WhatIsUnmet(const RunConfig& config, const Device& device) {
  std::vector<Unmet> unmet;
  const std::string& precision = config.train.precision;
  if (device.is_cpu() && precision == "bf16") {
    unmet.push_back({"train.precision: bf16 needs a GPU, and this run computes on the CPU; use f32",
                     "train.precision=f32"});
  }
  if (!device.is_cpu() && precision == "f64") {
    unmet.push_back({"train.precision: f64 is for CPUs; use f32 or bf16", "train.precision=f32"});
  }
  const ModelConfig& model = config.model;
  const bool engram = !model.engram.blocks.empty();
  if (!device.is_cpu() && engram && !model.engram.table.resident(/*on_cpu=*/false)) {
    unmet.push_back({"model.engram.table.store: lazy has no GPU half; use auto, or device=cpu",
                     "model.engram.table.store=auto"});
  }
  const char* name = device.is_cpu() ? "CPU" : "GPU";
  const auto check = [&](const std::string& key, int64_t value, int64_t most) {
    if (value <= most) return;
    const std::string limit = std::to_string(most);
    unmet.push_back({key + ": " + std::to_string(value) + " is more than the " + limit +
                         " that the " + name + " kernels take; lower it, or set device=cpu",
                     key + "=" + limit});
  };
  const Limits limits = LimitsOf(device.kind);
  check("model.mhc.streams", model.mhc.streams, limits.streams);
  if (model.layers > model.leading_dense) {
    check("model.moe.experts", model.moe.experts, limits.experts);
    check("model.moe.top_k", model.moe.top_k, limits.chosen);
  }
  return unmet;
}

std::optional<Unmet> UnmetByUpdates(const RunConfig& config, const BatchPlan& plan,
                                    const Device& device) {
  const int64_t most = LimitsOf(device.kind).micro_batches;
  if (config.model.engram.blocks.empty() || plan.accumulation <= most) return std::nullopt;
  int64_t larger = (plan.per_rank + most - 1) / most;
  while (plan.per_rank % larger != 0) ++larger;
  return Unmet{"train.micro_batch: " + std::to_string(plan.micro) + " sequences at once make " +
                   std::to_string(plan.accumulation) +
                   " micro-batches of an update, and tables take " + std::to_string(most) +
                   " on this device; raise it, or lower the batch",
               "train.micro_batch=" + std::to_string(larger)};
}

absl::StatusOr<Device> ChooseDevice(World& world, const RunConfig& config) {
  const absl::StatusOr<Device> mine = Mine(config, LocalRank(world));
  RETURN_IF_ERROR(world.Agree(mine.status()));
  const std::string place =
      mine->is_cpu() ? std::string() : world.host() + " " + GpuDriver()->info(mine->index).id;
  RETURN_IF_ERROR(CheckPlaces(config, world.AllGather(place)));
  std::string text;
  for (const Unmet& unmet : WhatIsUnmet(config, *mine))
    text += (text.empty() ? "" : "\n") + unmet.message;
  if (!text.empty()) return absl::InvalidArgumentError(text);
  return *mine;
}

int64_t CommunicatorBytes(const Device& device, const Layout& layout) {
  if (device.is_cpu() || layout.world == 1) return 0;
  constexpr int kPeersAHost = 8;  // further ones are reached through buffers that all share
  const auto peers = [=](int size) { return int64_t{std::min(size, kPeersAHost) - 1}; };
  const int64_t mebibytes =
      1505 + 145 * peers(layout.world) + 180 * peers(layout.expert) + 460 * peers(layout.memory);
  return mebibytes << 20;
}

std::string DescribeDevice(const Device& device) {
  if (device.is_cpu()) return "cpu";
  const GpuInfo info = GpuDriver()->info(device.index);
  return info.name + ", " + FormatBytes(info.free_bytes) + " free of " +
         FormatBytes(info.total_bytes);
}

}  // namespace mneme
