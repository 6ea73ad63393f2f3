// Measured rates of a device (configs/devices): what a forecast of a step's time rests on. Not a
// section of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

// Ops of one kind take flops / `flops` + bytes / `bytes` + exps / `exps` seconds; 0: that side
// costs nothing. Of a thread on a CPU.
struct WorkRate {
  double flops = 0.0;
  double bytes = 0.0;
  double exps = 0.0;

  template <class V>
  void Visit(V& v) {
    v("flops", flops, "floating-point operations a second");
    v("bytes", bytes, "bytes read and written a second");
    v("exps", exps, "exponentials a second, of attention");
  }
};

// By kind of op (kernels/core/dry.h, Work).
struct WorkRates {
  WorkRate matmul, experts, attention, attention_grad, head, streams, norms, routing, memory,
      tables, optimizer, orthogonal;

  template <class V>
  void Visit(V& v) {
    v("matmul", matmul, "dense products");
    v("experts", experts, "routed experts");
    v("attention", attention, "scores and values");
    v("attention_grad", attention_grad, "their gradients");
    v("head", head, "the last product with the loss");
    v("streams", streams, "mHC");
    v("norms", norms, "norms, SwiGLU, rotary positions, sums");
    v("routing", routing, "scores to chosen experts");
    v("memory", memory, "Engram's gate and convolution");
    v("tables", tables, "rows: gather, sort, update");
    v("optimizer", optimizer, "AdamW, momenta, norms of gradients");
    v("orthogonal", orthogonal, "Newton-Schulz");
  }
};

// One file of configs/devices, or of the user's own. Units, and what 0 means: the sentences below.
struct DeviceRates {
  std::string name;
  std::string kind = "gpu";
  std::vector<std::string> matches;
  double memory = 0.0;
  double reserved = 0.0;
  int64_t ranks_per_host = 1;
  double peak_flops = 0.0;
  double call_seconds = 0.0;
  double launch_seconds = 0.0;
  double link = 0.0;
  double link_sums = 0.0;
  double link_values = 0.0;
  double link_seconds = 0.0;
  double beside = 1.0;
  double disk = 0.0;
  double price = 0.0;
  std::string measured;
  WorkRates rates;

  template <class V>
  void Visit(V& v) {
    v("name", name, "as it stands in a plan");
    v("kind", kind, "what computes", {"cpu", "gpu"});
    v("matches", matches, "words of a device's own name that mean this one");
    v("memory", memory, "bytes of a device; 0 asks this host");
    v("reserved", reserved, "bytes of them that the driver and its libraries take");
    v("ranks_per_host", ranks_per_host, "devices of a host");
    v("peak_flops", peak_flops, "for the share of the peak; 0 leaves it out");
    v("call_seconds", call_seconds, "of an op beside its work");
    v("launch_seconds", launch_seconds, "of the host for an op of a step that is not recorded");
    v("link", link, "bytes a second that a rank sends to others, all at once");
    v("link_sums", link_sums, "the same while sums over ranks are made; 0: as link");
    v("link_values", link_values, "the same of values that all ranks get; 0: as link");
    v("link_seconds", link_seconds, "of a call between ranks beside its bytes");
    v("beside", beside, "pace of computing beside a call between ranks; 1: as alone");
    v("disk", disk, "bytes a second of a checkpoint, of a host");
    v("price", price, "of a device and hour; 0: unknown");
    v("measured", measured, "which numbers were measured, where, and which are scaled");
    v("rates", rates, "by kind of op");
  }
};

// What a plan is for where nobody names a device.
inline constexpr char kUsualDevice[] = "cpu";

// A shipped device by name ("h100"), or a file. Errors: InvalidArgument with the nearest name, or a
// line a fault of the file.
absl::StatusOr<DeviceRates> LoadDeviceRates(const std::string& name_or_file);
// The shipped device that a machine's own name ("NVIDIA H100 80GB HBM3", "cpu") means; NotFound.
absl::StatusOr<DeviceRates> MatchDeviceRates(const std::string& own_name);
// Names of the shipped ones.
std::vector<std::string> ShippedDevices();

}  // namespace mneme
