// A device that is not there: addresses without memory behind them, and a ledger of the work that
// ops on it (kernels/dry) would have done and of what its queues were given. The layers, the
// optimizer and the exchanges run on it as they are, so what a step takes is read off their own
// code.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

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
  int64_t calls = 0;  // kernels, about
  double flops = 0.0;
  double bytes = 0.0;  // read and written by the op, each tensor once
  double exps = 0.0;   // exponentials, where they are as many as count

  void Add(const WorkDone& more) {
    calls += more.calls;
    flops += more.flops;
    bytes += more.bytes;
    exps += more.exps;
  }
};

// What ranks do together, at rates of its own.
enum class Wire : uint8_t {
  kRows,    // rows from each to each
  kSums,    // sums over the members
  kValues,  // the same values to all
};
inline constexpr int kWires = 3;

// One thing that a queue was given.
struct Queued {
  enum class What : uint8_t {
    kWork,   // an op: `kind` is a Work
    kWire,   // a call of all members: `kind` is a Wire, `bytes` leave this rank
    kMark,   // the end of what was given so far
    kAwait,  // the queue goes on when `mark` is reached
    kHost,   // the host goes on when `mark` is reached
    kLap,    // a moment that is asked for
  };
  What what = What::kWork;
  uint8_t kind = 0;
  int64_t number = 0;  // in the order in which this thread gave, over all queues
  int64_t mark = 0;    // a number; one that is not among those at hand was reached before
  WorkDone done = {};
};

struct Ledger {
  std::array<WorkDone, kWorks> done;
  std::vector<Queued> queued;
  std::map<void*, int64_t> sent;  // on the way to the host: from which mark on
  // Counts of deals that were found before, by tokens, choices and starts (kernels/dry/layers.cc).
  std::map<std::vector<int64_t>, std::vector<int64_t>> dealt;

  void Add(Work work, const WorkDone& more) {
    done[static_cast<size_t>(work)].Add(more);
    Give({.what = Queued::What::kWork, .kind = static_cast<uint8_t>(work), .done = more});
  }
  void Add(Work work, double flops, double bytes) { Add(work, {1, flops, bytes, 0.0}); }
  void Send(Wire wire, double bytes) {
    Give({.what = Queued::What::kWire, .kind = static_cast<uint8_t>(wire), .done = {1, 0, bytes}});
  }
  // Its number.
  int64_t Give(Queued next);
};

// Of a stream on a dry device.
Ledger& LedgerOf(Stream& stream);

}  // namespace mneme
