// The op vocabulary on one page: a table of functions, one table a backend. A table is a value:
// tests hold two and compare them, a debug run swaps one entry.
#pragma once

#include "kernels/ops/activation.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/conv.h"
#include "kernels/ops/deal.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/engram.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/head.h"
#include "kernels/ops/hyper.h"
#include "kernels/ops/latent.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/route.h"
#include "kernels/ops/rows.h"
#include "kernels/ops/step.h"
#include "kernels/ops/table.h"
#include "kernels/ops/update.h"

namespace mneme {

struct Kernels {
  const char* name;
  MatmulFn* matmul;
  GroupedMatmulFn* grouped_matmul;
  GroupedMatmulWeightGradFn* grouped_matmul_weight_grad;
  RmsNormFn* rms_norm;
  RmsNormGradFn* rms_norm_grad;
  RopeFn* rope;
  LatentFn* latent;
  LatentGradFn* latent_grad;
  AttentionFn* attention;
  AttentionGradFn* attention_grad;
  SwiGluFn* swiglu;
  SwiGluGradFn* swiglu_grad;
  ShortConvFn* short_conv;
  ShortConvGradFn* short_conv_grad;
  GatherRowsFn* gather_rows;
  ScatterAddRowsFn* scatter_add_rows;
  UniqueIdsFn* unique_ids;
  SumUniqueFn* sum_unique;
  DealRowsFn* deal_rows;
  RouteFn* route;
  BalanceLossFn* balance_loss;
  RouteGradFn* route_grad;
  BiasUpdateFn* bias_update;
  DealTokensFn* deal_tokens;
  ExpertsFn* experts;
  ExpertsGradFn* experts_grad;
  HyperEnterFn* hyper_enter;
  HyperLeaveFn* hyper_leave;
  HyperLeaveEnterFn* hyper_leave_enter;
  HyperLeaveGradFn* hyper_leave_grad;
  HyperEnterGradFn* hyper_enter_grad;
  HyperReadFn* hyper_read;
  HyperReadGradFn* hyper_read_grad;
  HyperExpandFn* hyper_expand;
  HyperReduceFn* hyper_reduce;
  NgramRowsFn* ngram_rows;
  EngramGateFn* engram_gate;
  EngramGateGradFn* engram_gate_grad;
  NormalRowsFn* normal_rows;
  NgramGatherFn* ngram_gather;
  GroupRowsFn* group_rows;
  SumGroupsFn* sum_groups;
  AdamGroupsFn* adam_groups;
  PutRowsFn* put_rows;
  MarkRowsFn* mark_rows;
  CountMarksFn* count_marks;
  HeadLossFn* head_loss;
  AdamWFn* adamw;
  AdamRowsFn* adam_rows;
  MuonMomentumFn* muon_momentum;
  NewtonSchulzFn* newton_schulz;
  MuonApplyFn* muon_apply;
  SumSquaresFn* sum_squares;
  SumFn* sum;
  StepDecisionFn* step_decision;
  LoadImbalanceFn* load_imbalance;
  FillFn* fill;
  CopyFn* copy;
  CastFn* cast;
  AddFn* add;
  ScaleFn* scale;
};

// What runs: the fast version of an op where there is one.
const Kernels& CpuKernels();
// The plain version of every op: the definition that the fast ones are tested against.
const Kernels& PlainCpuKernels();
// Ops that compute nothing on a device that is not there: they ask for the memory that the real
// ones ask for, and write their work into the ledger of the stream (kernels/core/dry.h).
const Kernels& DryKernels();
// NVIDIA GPUs; nullptr in a build without CUDA.
const Kernels* GpuKernels();

}  // namespace mneme
