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

// Every op takes a stream and queues its work there; shapes, dtypes and what is assigned or added
// to stand with its type. No pointer is null.
struct Kernels {
  const char* name;  // "cpu", "cpu, plain", "gpu", "dry"
  // Products, dense and by group of rows.
  MatmulFn* matmul;
  GroupedMatmulFn* grouped_matmul;
  GroupedMatmulWeightGradFn* grouped_matmul_weight_grad;
  // Norms, rotary positions, the latent of keys and values, attention.
  RmsNormFn* rms_norm;
  RmsNormGradFn* rms_norm_grad;
  RopeFn* rope;
  LatentFn* latent;
  LatentGradFn* latent_grad;
  AttentionFn* attention;
  AttentionGradFn* attention_grad;
  // SwiGLU; Engram's short convolution.
  SwiGluFn* swiglu;
  SwiGluGradFn* swiglu_grad;
  ShortConvFn* short_conv;
  ShortConvGradFn* short_conv_grad;
  // Rows by id: of the embedding, and on their way between ranks.
  GatherRowsFn* gather_rows;
  ScatterAddRowsFn* scatter_add_rows;
  UniqueIdsFn* unique_ids;
  SumUniqueFn* sum_unique;
  DealRowsFn* deal_rows;
  // Routers; tokens dealt to the ranks of their experts; the experts.
  RouteFn* route;
  BalanceLossFn* balance_loss;
  RouteGradFn* route_grad;
  BiasUpdateFn* bias_update;
  DealTokensFn* deal_tokens;
  ExpertsFn* experts;
  ExpertsGradFn* experts_grad;
  // mHC: into a sub-layer and out of it; the read-out; into streams and back to one.
  HyperEnterFn* hyper_enter;
  HyperLeaveFn* hyper_leave;
  HyperLeaveEnterFn* hyper_leave_enter;
  HyperLeaveGradFn* hyper_leave_grad;
  HyperEnterGradFn* hyper_enter_grad;
  HyperReadFn* hyper_read;
  HyperReadGradFn* hyper_read_grad;
  HyperExpandFn* hyper_expand;
  HyperReduceFn* hyper_reduce;
  // Engram: addresses and gate.
  NgramRowsFn* ngram_rows;
  EngramGateFn* engram_gate;
  EngramGateGradFn* engram_gate_grad;
  // Tables that live whole on one device.
  NormalRowsFn* normal_rows;
  NgramGatherFn* ngram_gather;
  GroupRowsFn* group_rows;
  SumGroupsFn* sum_groups;
  AdamGroupsFn* adam_groups;
  PutRowsFn* put_rows;
  MarkRowsFn* mark_rows;
  CountMarksFn* count_marks;
  HeadLossFn* head_loss;
  // The update: moments, matrices, norms, and what a step decides.
  AdamWFn* adamw;
  AdamRowsFn* adam_rows;
  MuonMomentumFn* muon_momentum;
  NewtonSchulzFn* newton_schulz;
  MuonApplyFn* muon_apply;
  SumSquaresFn* sum_squares;
  SumFn* sum;
  StepDecisionFn* step_decision;
  LoadImbalanceFn* load_imbalance;
  // Element by element.
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
