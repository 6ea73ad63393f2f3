// A device that is not there: addresses without memory behind them, and a ledger of the work that
// ops on it (kernels/dry) would have done. The layers, the optimizer and the exchanges run on it as
// they are, so what a step takes is read off their own code.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/core/stream.h"

namespace mneme {

// Kinds of work that run at rates of their own.
enum class Work : uint8_t {
  kMatmul,         // dense products
  kExperts,        // the routed experts
  kAttention,      // scores and values
  kAttentionGrad,  // their gradients
  kHead,           // the last product with the loss
  kStreams,        // mHC's mixes, read-out
  kNorms,          // RMSNorm, SwiGLU, rotary positions, sums of tensors
  kRouting,        // scores to chosen experts
  kMemory,         // Engram's gate and convolution
  kTables,         // rows: gather, sort, update
  kOptimizer,      // AdamW, norms of gradients
  kOrthogonal,     // Muon's Newton-Schulz
};
inline constexpr int kWorks = 12;
const char* Name(Work work);

struct WorkDone {
  int64_t calls = 0;
  double flops = 0.0;
  double bytes = 0.0;  // read and written by the op, each tensor once

  void Add(const WorkDone& more) {
    calls += more.calls;
    flops += more.flops;
    bytes += more.bytes;
  }
};

struct Ledger {
  std::array<WorkDone, kWorks> done;

  void Add(Work work, double flops, double bytes) {
    done[static_cast<size_t>(work)].Add({1, flops, bytes});
  }
};

// Of a stream on a dry device.
Ledger& LedgerOf(Stream& stream);

}  // namespace mneme
