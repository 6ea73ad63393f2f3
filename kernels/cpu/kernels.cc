#include "kernels/kernels.h"

#include "kernels/cpu/fast.h"

namespace mneme {
namespace {

constexpr Kernels Plain() {
  return {
      .name = "cpu, plain",
      .matmul = cpu::Matmul,
      .grouped_matmul = cpu::GroupedMatmul,
      .grouped_matmul_weight_grad = cpu::GroupedMatmulWeightGrad,
      .rms_norm = cpu::RmsNorm,
      .rms_norm_grad = cpu::RmsNormGrad,
      .rope = cpu::Rope,
      .latent = cpu::Latent,
      .latent_grad = cpu::LatentGrad,
      .attention = cpu::Attention,
      .attention_grad = cpu::AttentionGrad,
      .swiglu = cpu::SwiGlu,
      .swiglu_grad = cpu::SwiGluGrad,
      .short_conv = cpu::ShortConv,
      .short_conv_grad = cpu::ShortConvGrad,
      .gather_rows = cpu::GatherRows,
      .scatter_add_rows = cpu::ScatterAddRows,
      .unique_ids = cpu::UniqueIds,
      .sum_unique = cpu::SumUnique,
      .deal_rows = cpu::DealRows,
      .route = cpu::Route,
      .balance_loss = cpu::BalanceLoss,
      .route_grad = cpu::RouteGrad,
      .bias_update = cpu::BiasUpdate,
      .deal_tokens = cpu::DealTokens,
      .experts = cpu::Experts,
      .experts_grad = cpu::ExpertsGrad,
      .hyper_enter = cpu::HyperEnter,
      .hyper_leave = cpu::HyperLeave,
      .hyper_leave_enter = cpu::HyperLeaveEnter,
      .hyper_leave_grad = cpu::HyperLeaveGrad,
      .hyper_enter_grad = cpu::HyperEnterGrad,
      .hyper_read = cpu::HyperRead,
      .hyper_read_grad = cpu::HyperReadGrad,
      .hyper_expand = cpu::HyperExpand,
      .hyper_reduce = cpu::HyperReduce,
      .ngram_rows = cpu::NgramRows,
      .engram_gate = cpu::EngramGate,
      .engram_gate_grad = cpu::EngramGateGrad,
      .normal_rows = cpu::NormalRows,
      .ngram_gather = cpu::NgramGather,
      .group_rows = cpu::GroupRows,
      .sum_groups = cpu::SumGroups,
      .adam_groups = cpu::AdamGroups,
      .put_rows = cpu::PutRows,
      .mark_rows = cpu::MarkRows,
      .count_marks = cpu::CountMarks,
      .head_loss = cpu::HeadLoss,
      .adamw = cpu::AdamW,
      .adam_rows = cpu::AdamRows,
      .muon_momentum = cpu::MuonMomentum,
      .newton_schulz = cpu::NewtonSchulz,
      .muon_apply = cpu::MuonApply,
      .sum_squares = cpu::SumSquares,
      .sum = cpu::Sum,
      .step_decision = cpu::StepDecision,
      .load_imbalance = cpu::LoadImbalance,
      .fill = cpu::Fill,
      .copy = cpu::Copy,
      .cast = cpu::Cast,
      .add = cpu::Add,
      .scale = cpu::Scale,
  };
}

constexpr Kernels Fast() {
  Kernels k = Plain();
  k.name = "cpu";
  k.rms_norm = cpu::RmsNormFast;
  k.rms_norm_grad = cpu::RmsNormGradFast;
  k.attention = cpu::AttentionFast;
  k.attention_grad = cpu::AttentionGradFast;
  k.swiglu = cpu::SwiGluFast;
  k.swiglu_grad = cpu::SwiGluGradFast;
  k.short_conv = cpu::ShortConvFast;
  k.short_conv_grad = cpu::ShortConvGradFast;
  k.hyper_enter = cpu::HyperEnterFast;
  k.hyper_leave = cpu::HyperLeaveFast;
  k.hyper_leave_enter = cpu::HyperLeaveEnterFast;
  k.hyper_leave_grad = cpu::HyperLeaveGradFast;
  k.hyper_enter_grad = cpu::HyperEnterGradFast;
  k.head_loss = cpu::HeadLossFast;
  k.adamw = cpu::AdamWFast;
  k.adam_rows = cpu::AdamRowsFast;
  k.sum_squares = cpu::SumSquaresFast;
  return k;
}

}  // namespace

const Kernels& CpuKernels() {
  static constexpr Kernels kTable = Fast();
  return kTable;
}

const Kernels& PlainCpuKernels() {
  static constexpr Kernels kTable = Plain();
  return kTable;
}

}  // namespace mneme
