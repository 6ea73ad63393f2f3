// One update of a run, from samples to moved weights.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/run.h"
#include "engine/checkpoint.h"
#include "engine/optimizer.h"
#include "engine/report.h"
#include "engine/stage.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/world.h"

namespace mneme {

// The sequences of one rank's share of an update, on the host and, a micro-batch at a time, on the
// device. Remade a stage.
class Staging {
 public:
  Staging(Context& context, const Stage& stage);

  // This rank's rows of the update that begins at sample `first`; returns how many targets count.
  int64_t Fill(const Stage& stage, int64_t first, int rank);
  // Micro-batch number `index` of them, lifted to the device.
  MicroBatch Lift(Context& context, int64_t index);

 private:
  std::vector<int32_t> tokens_, targets_, positions_, doc_start_;
  MicroBatch device_;
};

// Drives one stage. Borrows everything but its staging; one a rank, used by one thread.
class Stepper {
 public:
  Stepper(World& world, Context& context, const RunConfig& config, const Stage& stage, Stack& stack,
          Optimizer& optimizer);

  // Does the update at `position` and moves it on; the position counts a skipped update as a step.
  // Loss = Σ cross-entropy over the counted targets of the global batch / their number. Collective;
  // the same report on every rank, times and memory excepted.
  StepReport Step(RunPosition& position);

 private:
  struct Losses {
    double loss = 0.0;
    double balance = 0.0;
  };
  Losses ForwardBackward(int64_t counted);
  // Whether the loss is one to learn from, as train.skip has it.
  bool Acceptable(double loss, const RunPosition& position) const;
  void AddTraffic(StepReport& report);

  World& world_;
  Context& context_;
  const RunConfig& config_;
  const Stage& stage_;
  Stack& stack_;
  Optimizer& optimizer_;
  Staging staging_;
  Tensor loss_scale_, balance_scale_, loss_sum_, balance_sum_;  // run dtype [1]
};

}  // namespace mneme
