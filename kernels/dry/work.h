// What the dry ops share: bytes of a call, and ops of which nothing is left but their bytes.
#pragma once

#include "kernels/core/dry.h"
#include "kernels/kernels.h"

namespace mneme::dry {

// Of a call's argument: a tensor's bytes, all parts' bytes, 0 of whatever is no tensor.
inline double BytesOf(const Tensor& t) { return t.defined() ? static_cast<double>(t.bytes()) : 0; }
inline double BytesOf(RowParts parts) {
  double bytes = 0;
  for (const Tensor& part : parts) bytes += BytesOf(part);
  return bytes;
}
template <class T>
double BytesOf(const T&) {
  return 0;
}

inline double Real(int64_t n) { return static_cast<double>(n); }
inline int64_t DivideUp(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Scratch of an op, as the real one asks for it: held as long as the caller holds the handle, so
// that it counts in the pool's peak.
inline Tensor Scratch(Stream& stream, DType dtype, Shape shape) {
  return Tensor::Empty(stream, dtype, shape, MemoryTag::kWorkspace);
}

// An op that passes over its tensors once: Run<kind> adds their bytes to the ledger, no FLOPs and
// no scratch. Fn is the op's function type.
template <class Fn>
struct Pass;
template <class... Args>
struct Pass<void(Stream&, Args...)> {
  template <Work kind>
  static void Run(Stream& stream, Args... args) {
    LedgerOf(stream).Add(kind, 0, (BytesOf(args) + ... + 0));
  }
};

// Ops that count FLOPs, take scratch or make tensors themselves. Outputs stay unwritten, but for
// the counts that the host reads: those are of a balanced router (DealTokens). layers.cc:
MatmulFn Matmul;
LatentFn Latent;
LatentGradFn LatentGrad;
AttentionFn Attention;
AttentionGradFn AttentionGrad;
ShortConvGradFn ShortConvGrad;
DealTokensFn DealTokens;
ExpertsFn Experts;
ExpertsGradFn ExpertsGrad;
HyperEnterFn HyperEnter;
HyperLeaveEnterFn HyperLeaveEnter;
HyperEnterGradFn HyperEnterGrad;
HyperReadGradFn HyperReadGrad;
EngramGateGradFn EngramGateGrad;
HeadLossFn HeadLoss;

// updates.cc:
GatherRowsFn GatherRows;
ScatterAddRowsFn ScatterAddRows;
NgramGatherFn NgramGather;
GroupRowsFn GroupRows;
SumGroupsFn SumGroups;
AdamGroupsFn AdamGroups;
AdamRowsFn AdamRows;
AdamWFn AdamW;
MuonMomentumFn MuonMomentum;
NewtonSchulzFn NewtonSchulz;
MuonApplyFn MuonApply;

}  // namespace mneme::dry
