// One update of a run, from samples to moved weights.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "configs/run.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/report/report.h"
#include "engine/stage.h"
#include "engine/update/optimizer.h"
#include "kernels/core/graph.h"
#include "kernels/core/part_clock.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/world.h"

namespace mneme {

// The sequences of one rank's share of an update, on the host and on the device. Remade a stage.
class BatchStaging {
 public:
  // Room for plan.per_rank sequences of the stage's length, and one tensor of each kind for them.
  BatchStaging(Context& context, const Stage& stage);

  // This rank's rows of the update that begins at sample `first`; returns how many targets count.
  int64_t Fill(const Stage& stage, int64_t first, int rank);
  // All of them to the device, in the places where they always are; host memory may be filled again
  // on return.
  void Lift(Context& context);
  // Micro-batch number `index` of them, on the device: views, whose content the next Lift changes.
  MicroBatch Batch(int64_t index) const;

 private:
  std::vector<int32_t> host_[4];
  Tensor device_[4];  // i32: tokens, targets, positions, doc_start
  int64_t micro_ = 0;
  int64_t length_ = 0;
  bool documents_ = true;
};

// Drives one stage. Borrows everything but its staging; one a rank, used by one thread.
//
// A step is queued whole and nothing in it waits for the host: what varies stands in device memory
// that is written before, what is told of it is read after. Where the device can record (GPUs) and
// the expert and memory axes are 1, a step is recorded after two in which no rank's pool asked its
// driver for memory, and those from there on are one launch each, NCCL's part included.
class Stepper {
 public:
  Stepper(World& world, Context& context, const RunConfig& config, const Stage& stage, Stack& stack,
          Optimizer& optimizer, const RunPosition& position);
  ~Stepper() { context_.parts = nullptr; }
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  // Does the update at `position` and moves it on; the position counts a skipped update as a step.
  // Loss = Σ cross-entropy over the counted targets of the global batch / their number. Collective;
  // the same report on every rank, times and memory excepted.
  StepReport Step(RunPosition& position);

 private:
  // Reads the samples of the update that begins at `sample` into host memory, once.
  void Read(int64_t sample);
  // The targets that count everywhere; learns how long the step before took each rank.
  int64_t Exchange();
  // Loads the device with what this step is made of; returns the targets that count everywhere.
  int64_t Prepare(const RunPosition& position, double rate);
  // Whether a step reads nothing from the host, so that it can be recorded.
  bool Records() const;
  void Run();
  void ForwardBackward();
  StepReport Report(const RunPosition& position, const std::vector<double>& told) const;
  void AddTraffic(StepReport& report);
  void AddTimes(StepReport& report) const;

  World& world_;
  Context& context_;
  const RunConfig& config_;
  const Stage& stage_;
  Stack& stack_;
  Optimizer& optimizer_;
  BatchStaging staging_;
  Tensor loss_scale_, balance_scale_, balance_sum_;  // accurate [1]
  Tensor plan_;                                      // f64 [kPlanScalars]
  Tensor sums_;                                      // f64 [kSumScalars]
  Tensor report_;                                    // f64 [kStepReportScalars]
  int64_t read_sample_ = -1;                         // whose samples are in host memory
  int64_t read_counted_ = 0;                         // targets of them that count here
  Graph recorded_;
  int64_t steps_run_ = 0;
  int64_t work_nanoseconds_ = -1;     // of this rank's last step, collectives left out
  std::vector<double> rank_seconds_;  // the same of all ranks, by rank
  // Of the last step. On a GPU ops are only queued: what they take is known where parts are timed.
  double forward_backward_seconds_ = 0.0, update_seconds_ = 0.0;
  std::unique_ptr<PartClock> clock_;  // where parts are timed
  PartClock::Seconds part_seconds_{};
};

}  // namespace mneme
