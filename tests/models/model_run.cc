#include "tests/models/model_run.h"

#include <cmath>
#include <utility>

namespace mneme::test {

ModelRun::ModelRun(Rank& r, ModelConfig model, const RecomputePlan& recompute)
    : ModelRun(r, model, PlainVocabulary(model.vocab_size), recompute) {}

ModelRun::ModelRun(Rank& r, ModelConfig model, const Vocabulary& vocabulary,
                   const RecomputePlan& recompute)
    : rank(r) {
  // p moves by -g / (|g| + 1): g can be told from the move.
  model.engram.table.beta1 = model.engram.table.beta2 = 0.0;
  model.engram.table.eps = 1.0;
  model.engram.table.lr_mult = 1.0;
  auto made = Stack::Make(rank.context, model, vocabulary, recompute, 3, rank.store);
  CHECK(made.ok());
  stack = *std::move(made);
  rank.store.Allocate(rank.stream, rank.context.dtype, rank.mesh.layout, rank.mesh.world->rank());
  Randomise(rank.store);
  rank.store.ZeroGradients(rank.stream);
  for (RouterState& router : stack->routers()) {
    for (int64_t e = 0; e < router.bias.elements(); ++e) {
      SetValue(router.bias, e, 0.1 * static_cast<double>(e % 3));
    }
  }
  stack->SetPositions(rank.context, 16, {});
  loss_sum = Tensor::Zeros(rank.stream, DType::kF64, {1});
  balance_sum = MakeTensor(rank.context, {1}, {0.0});
}

double ModelRun::Step(const MicroBatch& batch, const HostBatch& host) {
  const double scale = 1.0 / static_cast<double>(host.counted());
  const double weight = stack->config().moe.sequence_balance;
  SetValue(loss_sum, 0, 0.0);
  SetValue(balance_sum, 0, 0.0);
  stack->TrainStep(rank.context, batch, MakeTensor(rank.context, {1}, {scale}),
                   MakeTensor(rank.context, {1}, {weight / static_cast<double>(host.rows)}),
                   loss_sum, balance_sum);
  return scale * GetValue(loss_sum, 0) + GetValue(balance_sum, 0);
}

void ModelRun::CollectTableGradients(Pieces& out) {
  Tensor step = Tensor::Zeros(rank.stream, DType::kF64, {kStepScalars});
  for (const StepScalar one : {kStepRate, kStepBias1, kStepBias2, kStepClip, kStepApply}) {
    step.data<double>()[one] = 1.0;
  }
  for (RowExchange* table : stack->tables()) {
    const RowTableSpec& spec = table->store().spec();
    std::vector<double>& gradient = out[spec.name];
    gradient.resize(static_cast<size_t>(spec.rows * spec.width));
    std::vector<int64_t> mine;
    const int coordinate = rank.mesh.layout.memory_coordinate(rank.mesh.world->rank());
    for (int64_t row = 0; row < spec.rows; ++row) {
      if (rank.mesh.layout.row_coordinate(row) == coordinate) mine.push_back(row);
    }
    Tensor ids = Tensor::Empty(rank.stream, DType::kI64, {static_cast<int64_t>(mine.size())});
    Upload(rank.stream, mine.data(), ids.bytes(), ids);
    // From 0 the move is the whole value: nothing is lost to rounding.
    Tensor values = Tensor::Zeros(rank.stream, spec.dtype, {ids.elements(), spec.width});
    table->store().Import(rank.stream, ids, values, {}, {}, false);
    table->ReduceGradients(rank.stream);
    table->Update(rank.stream, step);
    table->store().Read(rank.stream, ids, values);
    for (int64_t i = 0; i < values.elements(); ++i) {
      const double move = -GetValue(values, i);
      const int64_t row = mine[static_cast<size_t>(i / spec.width)];
      gradient[static_cast<size_t>(row * spec.width + i % spec.width)] =
          move / (1.0 - std::abs(move));
    }
  }
}

Tensor AllIds(Rank& rank, int64_t n) {
  Tensor ids = Tensor::Empty(rank.stream, DType::kI64, {n});
  for (int64_t i = 0; i < n; ++i) ids.data<int64_t>()[i] = i;
  return ids;
}

}  // namespace mneme::test
