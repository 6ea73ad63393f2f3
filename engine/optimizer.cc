#include "engine/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "parallel/reduce.h"

namespace mneme {
namespace {

using StepScalars = std::array<double, kStepScalars>;

// This rank's part of a region.
Tensor Owned(const Region& region, const Tensor& whole) {
  return whole.Flat(region.owned.begin, region.owned.end);
}

// min(1, max / norm); 1 where clipping is off.
double ClipScale(double max_norm, double norm) {
  return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

// Largest load over the mean load; 0 where nothing was routed.
double Imbalance(const std::vector<int64_t>& load) {
  int64_t sum = 0;
  int64_t largest = 0;
  for (int64_t n : load) {
    sum += n;
    largest = std::max(largest, n);
  }
  if (sum == 0) return 0.0;
  return static_cast<double>(largest) * static_cast<double>(load.size()) / static_cast<double>(sum);
}

void UploadStep(Stream& stream, StepScalars scalars, double beta1, double beta2, int64_t update,
                Tensor& step) {
  scalars[kStepBias1] = 1.0 - std::pow(beta1, static_cast<double>(update));
  scalars[kStepBias2] = 1.0 - std::pow(beta2, static_cast<double>(update));
  Upload(stream, scalars.data(), static_cast<int64_t>(sizeof scalars), step);
}

}  // namespace

Optimizer::Optimizer(Context& context, const OptimConfig& optim, const ModelConfig& model,
                     ParameterStore& store, Stack& stack)
    : optim_(optim), model_(model), store_(store), stack_(stack) {
  Stream& stream = context.stream;
  step_ = Tensor::Zeros(stream, DType::kF64, {kStepScalars}, MemoryTag::kOptimizer);
  table_step_ = Tensor::Zeros(stream, DType::kF64, {kStepScalars}, MemoryTag::kOptimizer);
  for (Region* region : store.regions()) {
    RegionState state;
    state.region = region;
    state.muon = region->kind == UpdateKind::kMuon && optim.matrices == "muon";
    const Shape shape = {region->owned.size()};
    state.first = Tensor::Zeros(stream, store.dtype(), shape, MemoryTag::kOptimizer);
    if (!state.muon) {
      state.second = Tensor::Zeros(stream, store.dtype(), shape, MemoryTag::kOptimizer);
    }
    state_.push_back(std::move(state));
  }
}

std::pair<double, double> Optimizer::SquaredNorms(Context& context) {
  Stream& stream = context.stream;
  Tensor sums = Tensor::Zeros(stream, DType::kF64, {2}, MemoryTag::kWorkspace);
  Tensor dense = sums.Flat(0, 1);
  Tensor tables = sums.Flat(1, 2);
  // Owned ranges partition every region over its replica group, so each gradient counts once in the
  // world's sum.
  for (const RegionState& state : state_) {
    if (state.region->owned.size() == 0) continue;
    context.kernels.sum_squares(stream, Owned(*state.region, state.region->grad), dense);
  }
  for (RowExchange* table : stack_.tables()) table->SumSquares(stream, tables);
  context.mesh.world->AllReduce(stream, sums, Reduce::kSum);
  std::array<double, 2> host{};
  Download(stream, sums, host.data(), static_cast<int64_t>(sizeof host));
  return {host[0], host[1]};
}

// Neighbouring slices of one decay are one call: a few calls a region, whatever the number of
// parameters.
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
    for (; i < slices.size() && slices[i].piece->decays == decays && slices[i].region_begin == end;
         ++i) {
      end += elements(slices[i]);
    }
    const AdamOptions options = {optim_.adam.beta1, optim_.adam.beta2, optim_.adam.eps,
                                 decays ? optim_.weight_decay : 0.0, 1.0};
    const int64_t base = region.owned.begin;
    Tensor m = state.first.Flat(begin - base, end - base);
    Tensor v = state.second.Flat(begin - base, end - base);
    Tensor p = region.value.Flat(begin, end);
    Tensor none;
    context.kernels.adamw(context.stream, options, step_, region.grad.Flat(begin, end), m, v, p,
                          none);
  }
}

// Each logical matrix on its own (docs/mathematics.md); a piece is never cut between owners here.
void Optimizer::UpdateMuon(Context& context, RegionState& state) {
  Region& region = *state.region;
  Stream& stream = context.stream;
  const MuonConfig& muon = optim_.muon;
  NewtonSchulzOptions options;
  options.steps = muon.steps;
  options.a = muon.coefficients[0];
  options.b = muon.coefficients[1];
  options.c = muon.coefficients[2];
  for (const Region::Slice& slice : region.Slices(region.owned)) {
    const Piece& piece = *slice.piece;
    CHECK_EQ(slice.row_end - slice.row_begin, piece.rows);
    const int64_t begin = slice.region_begin;
    const int64_t end = begin + piece.elements();
    const int64_t base = region.owned.begin;
    Tensor buffer = state.first.Flat(begin - base, end - base);
    Tensor u = Tensor::Empty(stream, store_.dtype(), {piece.elements()}, MemoryTag::kWorkspace);
    context.kernels.muon_momentum(stream, muon.momentum, muon.nesterov, step_,
                                  region.grad.Flat(begin, end), buffer, u);
    Tensor x = u.Reshape({piece.rows, piece.cols});
    context.kernels.newton_schulz(stream, options, x);
    Tensor p = region.value.Flat(begin, end);
    Tensor none;
    const double larger = static_cast<double>(std::max(piece.rows, piece.cols));
    context.kernels.muon_apply(stream, muon.rms_scale * std::sqrt(larger),
                               piece.decays ? optim_.weight_decay : 0.0, step_, u, p, none);
  }
}

double Optimizer::UpdateRouters(Context& context) {
  Stream& stream = context.stream;
  const Tensor apply = step_.Flat(kStepApply, kStepApply + 1);
  double worst = 0.0;
  for (RouterState& router : stack_.routers()) {
    context.mesh.world->AllReduce(stream, router.load, Reduce::kSum);
    if (model_.moe.bias_update != 0.0) {
      context.kernels.bias_update(stream, router.load, model_.moe.bias_update, apply, router.bias);
    }
    std::vector<int64_t> load(static_cast<size_t>(router.load.elements()));
    Download(stream, router.load, load.data(), router.load.bytes());
    worst = std::max(worst, Imbalance(load));
    std::fill(load.begin(), load.end(), int64_t{0});
    Upload(stream, load.data(), router.load.bytes(), router.load);
  }
  return worst;
}

UpdateReport Optimizer::Step(Context& context, int64_t update, double rate, bool loss_ok,
                             bool skip_nonfinite) {
  Stream& stream = context.stream;
  ReduceGradients(stream, context.mesh, store_);
  for (RowExchange* table : stack_.tables()) table->ReduceGradients(stream);
  const auto [dense, tables] = SquaredNorms(context);

  UpdateReport report;
  report.table_grad_norm = std::sqrt(tables);
  const double all = std::sqrt(dense + tables);
  report.grad_norm = model_.engram.table.in_clip_norm ? all : std::sqrt(dense);
  report.skipped = !loss_ok || (skip_nonfinite && !std::isfinite(all));

  StepScalars scalars{};
  scalars[kStepRate] = rate;
  scalars[kStepClip] = ClipScale(optim_.clip, report.grad_norm);
  scalars[kStepApply] = report.skipped ? 0.0 : 1.0;
  const TableConfig& table_config = model_.engram.table;
  UploadStep(stream, scalars, optim_.adam.beta1, optim_.adam.beta2, update, step_);
  UploadStep(stream, scalars, table_config.beta1, table_config.beta2, update, table_step_);

  for (RegionState& state : state_) {
    if (state.region->owned.size() == 0) continue;
    if (state.muon) {
      UpdateMuon(context, state);
    } else {
      UpdateAdamW(context, state);
    }
  }
  for (RowExchange* table : stack_.tables()) table->Update(stream, table_step_);
  report.load_imbalance = UpdateRouters(context);
  GatherValues(stream, context.mesh, store_);
  store_.ZeroGradients();
  return report;
}

}  // namespace mneme
