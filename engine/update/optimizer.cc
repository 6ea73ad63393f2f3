#include "engine/update/optimizer.h"

#include <algorithm>
#include <cmath>

#include "parallel/reduce.h"

namespace mneme {
namespace {

StepDecisionOptions DecisionOf(const OptimConfig& optim, const TableConfig& table,
                               const SkipConfig& skip) {
  StepDecisionOptions options;
  options.clip = optim.clip;
  options.tables_in_norm = table.in_clip_norm;
  options.beta1 = optim.adam.beta1;
  options.beta2 = optim.adam.beta2;
  options.table_beta1 = table.beta1;
  options.table_beta2 = table.beta2;
  options.skip_nonfinite = skip.nonfinite;
  options.outlier_sigma = skip.outlier_sigma;
  options.window = skip.window;
  return options;
}

// Elements [begin, end) of a region, which this rank owns, as an update moves them.
struct Moved {
  Tensor gradient, master;
  Tensor rounded;  // undefined where the master is what is read
};

Moved MovedOf(const Region& region, int64_t begin, int64_t end) {
  const int64_t base = region.owned.begin;
  return {region.grad.Flat(begin, end), region.master.Flat(begin - base, end - base),
          region.rounded() ? region.read.Flat(begin, end) : Tensor()};
}

// Matrices of one shape and decay among those that a rank owns: where they stand in its part of
// the region.
struct MatrixGroup {
  const Piece* piece;
  std::vector<FlatRun> runs;
};

std::vector<MatrixGroup> GroupsOf(const Region& region) {
  std::vector<MatrixGroup> groups;
  for (const Region::Slice& slice : region.Slices(region.owned)) {
    const Piece& piece = *slice.piece;
    CHECK_EQ(slice.row_end - slice.row_begin, piece.rows);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const MatrixGroup& g) {
      return g.piece->rows == piece.rows && g.piece->cols == piece.cols &&
             g.piece->decays == piece.decays;
    });
    if (group == groups.end()) group = groups.insert(group, {&piece, {}});
    std::vector<FlatRun>& runs = group->runs;
    const int64_t at = slice.region_begin - region.owned.begin;
    if (runs.empty() || runs.back().at + runs.back().count != at) runs.push_back({at, 0});
    runs.back().count += piece.elements();
  }
  return groups;
}

}  // namespace

Optimizer::Optimizer(Context& context, const OptimConfig& optim, const ModelConfig& model,
                     const SkipConfig& skip, ParameterStore& store, Stack& stack,
                     int64_t muon_batch_bytes)
    : muon_batch_bytes_(muon_batch_bytes),
      optim_(optim),
      model_(model),
      store_(store),
      stack_(stack),
      reduction_(context.mesh, store),
      decision_(DecisionOf(optim, model.engram.table, skip)) {
  Stream& stream = context.stream;
  history_ =
      Tensor::Zeros(stream, DType::kF64, {kHistoryRing + skip.window}, MemoryTag::kOptimizer);
  step_ = Tensor::Zeros(stream, DType::kF64, {kStepScalars}, MemoryTag::kOptimizer);
  table_step_ = Tensor::Zeros(stream, DType::kF64, {kStepScalars}, MemoryTag::kOptimizer);
  for (Region* region : store.regions()) {
    RegionState state;
    state.region = region;
    state.muon = region->kind == UpdateKind::kMuon && optim.matrices == "muon";
    const Shape shape = {region->owned.size()};
    state.first = Tensor::Zeros(stream, Accurate(store.dtype()), shape, MemoryTag::kOptimizer);
    if (!state.muon) {
      state.second = Tensor::Zeros(stream, Accurate(store.dtype()), shape, MemoryTag::kOptimizer);
    }
    state_.push_back(std::move(state));
  }
}

void Optimizer::SetHistory(Context& context, int64_t updates,
                           const std::vector<double>& recent_losses) {
  const size_t window = static_cast<size_t>(decision_.window);
  // The newest, where a checkpoint of a longer window is gone on from.
  const size_t count = std::min(window, recent_losses.size());
  std::vector<double> history(static_cast<size_t>(history_.elements()), 0.0);
  history[kHistoryUpdates] = static_cast<double>(updates);
  history[kHistoryLosses] = static_cast<double>(count);
  history[kHistoryPosition] = static_cast<double>(window == 0 ? 0 : count % window);
  std::copy(recent_losses.end() - static_cast<int64_t>(count), recent_losses.end(),
            history.begin() + kHistoryRing);
  Upload(context.stream, history.data(), history_.bytes(), history_);
}

// Owned ranges partition every region over its replica group, so each gradient counts once in the
// world's sum.
void Optimizer::AddSquares(Context& context, Tensor& sums) {
  Tensor dense = sums.Flat(kSumDense, kSumDense + 1);
  Tensor tables = sums.Flat(kSumTables, kSumTables + 1);
  for (const RegionState& state : state_) {
    const Range owned = state.region->owned;
    if (owned.size() == 0) continue;
    context.kernels.sum_squares(context.stream, state.region->grad.Flat(owned.begin, owned.end),
                                dense);
  }
  for (RowExchange* table : stack_.tables()) table->SumSquares(context.stream, tables);
}

// Neighbouring slices of one decay, and the padding between them, are one call: a few calls a
// region, whatever the number of parameters.
void Optimizer::UpdateAdamW(Context& context, RegionState& state) {
  Region& region = *state.region;
  const std::vector<Region::Slice> slices = region.Slices(region.owned);
  const auto elements = [](const Region::Slice& s) {
    return (s.row_end - s.row_begin) * s.piece->cols;
  };
  for (size_t i = 0; i < slices.size();) {
    const bool decays = slices[i].piece->decays;
    const int64_t begin = slices[i].region_begin;
    int64_t end = begin;
    for (; i < slices.size() && slices[i].piece->decays == decays &&
           slices[i].region_begin - end < kParameterAlignment;
         ++i) {
      end = slices[i].region_begin + elements(slices[i]);
    }
    const AdamOptions options = {optim_.adam.beta1, optim_.adam.beta2, optim_.adam.eps,
                                 decays ? optim_.weight_decay : 0.0, 1.0};
    const int64_t base = region.owned.begin;
    Tensor m = state.first.Flat(begin - base, end - base);
    Tensor v = state.second.Flat(begin - base, end - base);
    auto [gradient, p, rounded] = MovedOf(region, begin, end);
    context.kernels.adamw(context.stream, options, step_, gradient, m, v, p, rounded);
  }
}

// Each logical matrix on its own (docs/mathematics.md), those of one shape at once wherever they
// stand: a small model's step is made of the time that kernels take beside their work. A piece is
// never cut between owners here.
void Optimizer::UpdateMuon(Context& context, RegionState& state) {
  for (const MatrixGroup& group : GroupsOf(*state.region)) {
    const int64_t each = group.piece->elements();
    const int64_t most =
        each * std::max<int64_t>(1, muon_batch_bytes_ / (each * SizeOf(store_.dtype())));
    std::vector<FlatRun> batch;
    int64_t room = most;
    for (FlatRun left : group.runs) {
      while (left.count > 0) {
        const FlatRun now = {left.at, std::min(left.count, room)};
        batch.push_back(now);
        room -= now.count;
        left = {left.at + now.count, left.count - now.count};
        if (room > 0) continue;
        UpdateMatrices(context, state, *group.piece, batch);
        batch.clear();
        room = most;
      }
    }
    if (!batch.empty()) UpdateMatrices(context, state, *group.piece, batch);
  }
}

void Optimizer::UpdateMatrices(Context& context, RegionState& state, const Piece& piece,
                               FlatRuns runs) {
  Stream& stream = context.stream;
  const MuonConfig& muon = optim_.muon;
  NewtonSchulzOptions options;
  options.steps = muon.steps;
  options.a = muon.coefficients[0];
  options.b = muon.coefficients[1];
  options.c = muon.coefficients[2];
  int64_t elements = 0;
  for (const FlatRun& run : runs) elements += run.count;
  Tensor u = Tensor::Empty(stream, store_.dtype(), {elements}, MemoryTag::kWorkspace);
  auto [gradient, p, rounded] =
      MovedOf(*state.region, state.region->owned.begin, state.region->owned.end);
  context.kernels.muon_momentum(stream, muon.momentum, muon.nesterov, step_, runs, gradient,
                                state.first, u);
  Tensor x = u.Reshape({elements / piece.elements(), piece.rows, piece.cols});
  context.kernels.newton_schulz(stream, options, x);
  const double larger = static_cast<double>(std::max(piece.rows, piece.cols));
  context.kernels.muon_apply(stream, muon.rms_scale * std::sqrt(larger),
                             piece.decays ? optim_.weight_decay : 0.0, step_, runs, u, p, rounded);
}

SideJob Optimizer::SumLoads(Context& context) {
  Comm& world = *context.mesh.world;
  if (world.size() == 1 || stack_.routers().empty()) return {};
  return SideJob::Run(context.stream, {}, [&](Stream& side) {
    for (RouterState& router : stack_.routers()) world.AllReduce(side, router.load, Reduce::kSum);
  });
}

void Optimizer::UpdateRouters(Context& context, Tensor& imbalance) {
  Stream& stream = context.stream;
  const Tensor apply = step_.Flat(kStepApply, kStepApply + 1);
  Zero(stream, imbalance);
  for (RouterState& router : stack_.routers()) {
    if (model_.moe.bias_update != 0.0) {
      context.kernels.bias_update(stream, router.load, model_.moe.bias_update, apply, router.bias);
    }
    context.kernels.load_imbalance(stream, router.load, imbalance);
    Zero(stream, router.load);
  }
}

void Optimizer::Step(Context& context, const Tensor& plan, Tensor& sums, Tensor& report) {
  Stream& stream = context.stream;
  const InPart rest(context.parts, Part::kClip);
  context.In(Part::kTables, [&] {
    for (RowExchange* table : stack_.tables()) table->ReduceGradients(stream);
  });
  context.In(Part::kReduce, [&] { reduction_.Finish(stream); });
  AddSquares(context, sums);
  if (context.mesh.world->size() > 1) {
    SideJob::Run(stream, {sums}, [&](Stream& side) {
      context.mesh.world->AllReduce(side, sums, Reduce::kSum);
    }).Join();
  }
  SideJob loads = SumLoads(context);
  Tensor decided = report.Flat(0, kReportScalars);
  context.kernels.step_decision(stream, decision_, plan, sums, history_, step_, table_step_,
                                decided);
  // A region's new values travel while the next one is updated.
  std::vector<SideJob> gathers;
  for (RegionState& state : state_) {
    const bool owns = state.region->owned.size() > 0;
    if (owns && state.muon) context.In(Part::kMuon, [&] { UpdateMuon(context, state); });
    if (owns && !state.muon) context.In(Part::kAdamW, [&] { UpdateAdamW(context, state); });
    gathers.push_back(GatherRead(stream, context.mesh, *state.region));
  }
  context.In(Part::kTables, [&] {
    for (RowExchange* table : stack_.tables()) table->Update(stream, table_step_);
  });
  loads.Join();
  Tensor imbalance = report.Flat(kReportImbalance, kReportImbalance + 1);
  UpdateRouters(context, imbalance);
  store_.ZeroGradients(stream);
  context.In(Part::kGather, [&] { gathers.clear(); });
}

}  // namespace mneme
