// A whole model on one rank of any layout, with values that make every gradient matter.
#pragma once

#include <memory>

#include "tests/models/fixture.h"

namespace mneme::test {

struct ModelRun {
  // Table optimizers are set so that an update shows its gradient (CollectTableGradients).
  ModelRun(Rank& rank, ModelConfig model, const RecomputePlan& recompute = {});
  ModelRun(Rank& rank, ModelConfig model, const Vocabulary& vocabulary,
           const RecomputePlan& recompute);

  // One TrainStep on `batch`, a part of `host`; gradients and loads accumulate. Returns this call's
  // mean loss over the host batch's targets + balance loss; loss_sum holds the sum alone.
  double Step(const MicroBatch& batch, const HostBatch& host);

  // This step's gradient of every table: name -> [rows · width], rows of other ranks 0. Spends it:
  // the rows move. Collective.
  void CollectTableGradients(Pieces& out);

  Rank& rank;
  std::unique_ptr<Stack> stack;
  Tensor loss_sum, balance_sum;
};

// 0 .. n-1, i64.
Tensor AllIds(Rank& rank, int64_t n);

}  // namespace mneme::test
