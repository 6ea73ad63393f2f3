#include "kernels/kernels.h"

#include "kernels/dry/work.h"

namespace mneme {
namespace {

template <class Fn, Work kind>
constexpr Fn* kPass = dry::Pass<Fn>::template Run<kind>;

constexpr Kernels Dry() {
  return {
      .name = "dry",
      .matmul = dry::Matmul,
      .grouped_matmul = kPass<GroupedMatmulFn, Work::kExperts>,
      .grouped_matmul_weight_grad = kPass<GroupedMatmulWeightGradFn, Work::kExperts>,
      .rms_norm = kPass<RmsNormFn, Work::kNorms>,
      .rms_norm_grad = kPass<RmsNormGradFn, Work::kNorms>,
      .rope = kPass<RopeFn, Work::kNorms>,
      .latent = dry::Latent,
      .latent_grad = dry::LatentGrad,
      .attention = dry::Attention,
      .attention_grad = dry::AttentionGrad,
      .swiglu = kPass<SwiGluFn, Work::kNorms>,
      .swiglu_grad = kPass<SwiGluGradFn, Work::kNorms>,
      .short_conv = kPass<ShortConvFn, Work::kMemory>,
      .short_conv_grad = dry::ShortConvGrad,
      .gather_rows = dry::GatherRows,
      .scatter_add_rows = dry::ScatterAddRows,
      .unique_ids = kPass<UniqueIdsFn, Work::kTables>,
      .sum_unique = kPass<SumUniqueFn, Work::kTables>,
      .deal_rows = kPass<DealRowsFn, Work::kTables>,
      .route = kPass<RouteFn, Work::kRouting>,
      .balance_loss = kPass<BalanceLossFn, Work::kRouting>,
      .route_grad = kPass<RouteGradFn, Work::kRouting>,
      .bias_update = kPass<BiasUpdateFn, Work::kRouting>,
      .deal_tokens = dry::DealTokens,
      .experts = dry::Experts,
      .experts_grad = dry::ExpertsGrad,
      .hyper_enter = dry::HyperEnter,
      .hyper_leave = kPass<HyperLeaveFn, Work::kStreams>,
      .hyper_leave_enter = dry::HyperLeaveEnter,
      .hyper_leave_grad = kPass<HyperLeaveGradFn, Work::kStreams>,
      .hyper_enter_grad = dry::HyperEnterGrad,
      .hyper_read = kPass<HyperReadFn, Work::kStreams>,
      .hyper_read_grad = dry::HyperReadGrad,
      .hyper_expand = kPass<HyperExpandFn, Work::kStreams>,
      .hyper_reduce = kPass<HyperReduceFn, Work::kStreams>,
      .ngram_rows = kPass<NgramRowsFn, Work::kTables>,
      .engram_gate = kPass<EngramGateFn, Work::kMemory>,
      .engram_gate_grad = dry::EngramGateGrad,
      .normal_rows = kPass<NormalRowsFn, Work::kTables>,
      .ngram_gather = dry::NgramGather,
      .group_rows = dry::GroupRows,
      .sum_groups = dry::SumGroups,
      .adam_groups = dry::AdamGroups,
      .put_rows = kPass<PutRowsFn, Work::kTables>,
      .mark_rows = kPass<MarkRowsFn, Work::kTables>,
      .count_marks = kPass<CountMarksFn, Work::kTables>,
      .head_loss = dry::HeadLoss,
      .adamw = dry::AdamW,
      .adam_rows = dry::AdamRows,
      .muon_momentum = dry::MuonMomentum,
      .newton_schulz = dry::NewtonSchulz,
      .muon_apply = dry::MuonApply,
      .sum_squares = kPass<SumSquaresFn, Work::kOptimizer>,
      .sum = kPass<SumFn, Work::kNorms>,
      .step_decision = kPass<StepDecisionFn, Work::kOptimizer>,
      .load_imbalance = kPass<LoadImbalanceFn, Work::kRouting>,
      .fill = kPass<FillFn, Work::kNorms>,
      .copy = kPass<CopyFn, Work::kNorms>,
      .cast = kPass<CastFn, Work::kNorms>,
      .add = kPass<AddFn, Work::kNorms>,
      .scale = kPass<ScaleFn, Work::kNorms>,
  };
}

}  // namespace

const Kernels& DryKernels() {
  static constexpr Kernels kTable = Dry();
  return kTable;
}

}  // namespace mneme
