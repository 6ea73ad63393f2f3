// Held-out sequences through the model, dealt to the ranks: what evaluation and analysis share.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "data/loader.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/world.h"

namespace mneme {

// Host memory of one micro-batch.
struct HostBatch {
  HostBatch(int64_t rows, int64_t length);
  // To be filled; borrows this.
  BatchView View();
  // Copies on the device, with documents that only doc_start tells of.
  MicroBatch Lift(Context& context) const;

  int64_t rows = 0;
  int64_t length = 0;
  std::vector<int32_t> tokens, targets, positions, doc_start;  // [rows · length]
};

// An accurate tensor (f32 or f64, not bf16) as doubles. Waits for the device.
std::vector<double> ToHost(Context& context, const Tensor& tensor);
// For each position the largest gate over Engram layers and branches; zeros without Engram.
std::vector<double> LargestGates(Context& context, const std::vector<Tensor>& gates,
                                 int64_t positions);

// One scored sequence. The spans live as long as the call that hands it over.
struct ScoredSequence {
  int64_t sequence = 0;
  absl::Span<const int32_t> tokens;
  absl::Span<const int32_t> targets;  // −1 is not counted
  absl::Span<const int32_t> doc_start;
  absl::Span<const double> losses;  // 0 where not counted
  absl::Span<const double> gates;   // empty unless asked for
};

struct ScoreOptions {
  int64_t sequences = 0;    // of the set's, from its first; 0: all
  int64_t micro_batch = 0;  // sequences at once on a rank; 0: about 4,096 tokens
  bool memory_off = false;
  bool with_gates = false;
};

// Scores the set's sequences; `take` sees each sequence once, on the rank that scored it, in rising
// order. Which rank that is depends on the number of ranks. Collective.
void ScoreSequences(World& world, Context& context, Stack& stack, const HeldOut& set,
                    const ScoreOptions& options,
                    const std::function<void(const ScoredSequence&)>& take);

}  // namespace mneme
