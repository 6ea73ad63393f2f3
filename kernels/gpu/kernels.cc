#include "kernels/kernels.h"

namespace mneme {

const Kernels* GpuKernels() {
  static constexpr Kernels kTable = {
      .name = "gpu",
      .matmul = gpu::Matmul,
      .grouped_matmul = gpu::GroupedMatmul,
      .grouped_matmul_weight_grad = gpu::GroupedMatmulWeightGrad,
      .rms_norm = gpu::RmsNorm,
      .rms_norm_grad = gpu::RmsNormGrad,
      .rope = gpu::Rope,
      .attention = gpu::Attention,
      .attention_grad = gpu::AttentionGrad,
      .swiglu = gpu::SwiGlu,
      .swiglu_grad = gpu::SwiGluGrad,
      .short_conv = nullptr,
      .short_conv_grad = nullptr,
      .gather_rows = nullptr,
      .scatter_add_rows = nullptr,
      .unique_ids = nullptr,
      .route = gpu::Route,
      .balance_loss = gpu::BalanceLoss,
      .route_grad = gpu::RouteGrad,
      .bias_update = gpu::BiasUpdate,
      .experts = gpu::Experts,
      .experts_grad = gpu::ExpertsGrad,
      .hyper_enter = gpu::HyperEnter,
      .hyper_leave = gpu::HyperLeave,
      .hyper_leave_grad = gpu::HyperLeaveGrad,
      .hyper_enter_grad = gpu::HyperEnterGrad,
      .hyper_read = gpu::HyperRead,
      .hyper_read_grad = gpu::HyperReadGrad,
      .hyper_expand = gpu::HyperExpand,
      .hyper_reduce = gpu::HyperReduce,
      .ngram_rows = nullptr,
      .engram_gate = nullptr,
      .engram_gate_grad = nullptr,
      .head_loss = gpu::HeadLoss,
      .adamw = gpu::AdamW,
      .adam_rows = gpu::AdamRows,
      .muon_momentum = gpu::MuonMomentum,
      .newton_schulz = gpu::NewtonSchulz,
      .muon_apply = gpu::MuonApply,
      .sum_squares = gpu::SumSquares,
      .sum = gpu::Sum,
      .step_decision = gpu::StepDecision,
      .load_imbalance = gpu::LoadImbalance,
      .fill = gpu::Fill,
      .copy = gpu::Copy,
      .cast = gpu::Cast,
      .add = gpu::Add,
      .scale = gpu::Scale,
  };
  return &kTable;
}

}  // namespace mneme
