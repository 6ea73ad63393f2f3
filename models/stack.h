// The whole model: embedding, blocks, read-out, norm, head. Forward and backward of one
// micro-batch.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "configs/model.h"
#include "models/context.h"
#include "models/layer.h"
#include "models/moe.h"
#include "parallel/parameter.h"
#include "parallel/row_exchange.h"

namespace mneme {

// What the model needs to know of the vocabulary of its data.
struct Vocabulary {
  int64_t size = 0;  // ids
  std::vector<int32_t>
      canonical;               // [size] id -> canonical id (identity where there is no compression)
  int64_t canonical_size = 0;  // V'
  int64_t pad = 0;             // canonical id before the first token
};

// Told of parameters to whose gradients a backward pass has queued the last of its work.
using GradientsFinal = std::function<void(absl::Span<Parameter* const>)>;

// Position-wise losses and, on request, gates of one forward pass without gradient.
struct Scores {
  Tensor losses;              // [T] nats; 0 where not counted
  std::vector<Tensor> gates;  // one an Engram layer: alpha [T, M]; 0 where the memory is off
};

class Stack {
 public:
  // Declares every parameter in `store` and makes the tables. Nothing is allocated for parameters
  // yet: the caller then calls store.Allocate and Initialize. `seed` seeds the tables. Errors: a
  // resident table that does not fit, widths that do not divide.
  static absl::StatusOr<std::unique_ptr<Stack>> Make(Context& context, const ModelConfig& config,
                                                     const Vocabulary& vocabulary,
                                                     const RecomputePlan& recompute, uint64_t seed,
                                                     ParameterStore& store);
  ~Stack();

  // Rotary tables for sequences of up to `length` under `yarn` (scale 1: none). Called before the
  // first step of a stage.
  void SetPositions(Context& context, int64_t length, const YarnConfig& yarn);

  // A micro-batch that TrainStep will be given, told one ahead: its rows can be counted while the
  // one before it computes. In the order of the steps; optional. Collective.
  void Announce(Context& context, const MicroBatch& batch);
  // One micro-batch: loss and gradients. loss_scale [1] = 1 / counted targets of the global batch;
  // balance_scale [1] = weight / sequences of the global batch. Adds Σ losses to loss_sum (f64
  // [1]) and the scaled balance loss to balance_sum (accurate [1]); adds into gradients, router
  // loads and table gradients. Collective over the mesh's axes. `final`, if any, hears of every
  // parameter once, part by part on the way back.
  void TrainStep(Context& context, const MicroBatch& batch, const Tensor& loss_scale,
                 const Tensor& balance_scale, Tensor& loss_sum, Tensor& balance_sum,
                 const GradientsFinal& final = {});

  // Forward only; changes no state. Collective. memory_off: Engram's output is taken as zero
  // (arXiv 2601.07372).
  Scores Score(Context& context, const MicroBatch& batch, bool memory_off = false,
               bool with_gates = false);
  // Logits [T, V] of every position. Collective.
  Tensor Logits(Context& context, const MicroBatch& batch);
  // Logits [rows, V] of the last position of each row. Collective.
  Tensor LastLogits(Context& context, const MicroBatch& batch, bool memory_off = false,
                    std::vector<Tensor>* gates = nullptr);

  std::vector<RouterState>& routers();
  std::vector<RowExchange*> tables();
  const ModelConfig& config() const;

 private:
  Stack();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mneme
