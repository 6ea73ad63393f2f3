// The optimizers' arithmetic (docs/mathematics.md). What changes from step to step stands
// in a device tensor.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace mneme {

// Places in the f64 tensor `step` [kStepScalars] that every update reads.
enum StepScalar : int {
  kStepRate = 0,   // learning rate of this update
  kStepBias1 = 1,  // 1 − β₁^u
  kStepBias2 = 2,  // 1 − β₂^u
  kStepClip = 3,   // gradients are multiplied by it: min(1, max_norm / norm)
  kStepApply = 4,  // 0: the step is skipped, nothing moves
  kStepScalars = 5,
};

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-20;
  double decay = 0.0;      // decoupled: p ← p − rate · (m̂ / (√v̂ + eps) + decay · p)
  double rate_mult = 1.0;  // of kStepRate
};

// g, m, v, p [n], flat. `copy` [n], where defined, receives the new p rounded to its own dtype: the
// weights that the next step computes with.
using AdamWFn = void(Stream&, const AdamOptions&, const Tensor& step, const Tensor& g, Tensor& m,
                     Tensor& v, Tensor& p, Tensor& copy);
// The same for rows slots[i] of m, v, p [R, W] with gradient g[i]; g [n, W], slots i64 [n],
// distinct.
using AdamRowsFn = void(Stream&, const AdamOptions&, const Tensor& step, const Tensor& g,
                        const Tensor& slots, Tensor& m, Tensor& v, Tensor& p);

// Elements [at, at + count) of a flat tensor. Muon's matrices of one shape stand in runs of a
// region [N] of g, buf, p and copy, and one run after the other in u and o [n], n = Σ count.
struct FlatRun {
  int64_t at = 0;
  int64_t count = 0;
};
using FlatRuns = absl::Span<const FlatRun>;

// Of the runs: buf ← μ·buf + clip·g; u ← nesterov ? clip·g + μ·buf : buf. Nothing moves (u = 0)
// where the step is skipped. u may be narrower than g and buf.
using MuonMomentumFn = void(Stream&, double momentum, bool nesterov, const Tensor& step,
                            FlatRuns runs, const Tensor& g, Tensor& buf, Tensor& u);
struct NewtonSchulzOptions {
  int64_t steps = 5;
  double a = 3.4445, b = -4.7750, c = 2.0315;
  double eps = 1e-7;  // X = U / (‖U‖_F + eps)
};
// x [rows, cols], or a batch of such matrices [B, rows, cols] → their approximate orthogonal
// factors, in place. Transposes inside where rows > cols. 0 stays 0.
using NewtonSchulzFn = void(Stream&, const NewtonSchulzOptions&, Tensor& x);
// A GPU makes all steps of a small matrix in the shared memory of one block, without scratch: bytes
// of it, with the matrix [n, m], n <= m, in rows of NewtonSchulzStride(m).
constexpr int64_t NewtonSchulzStride(int64_t m) { return (m + 63) / 64 * 64 + 8; }
constexpr int64_t NewtonSchulzShared(int64_t rows, int64_t cols) {
  const int64_t n = rows < cols ? rows : cols, padded = n <= 64 ? 64 : 128;
  return 2 * padded * (NewtonSchulzStride(rows < cols ? cols : rows) + padded + 8);
}
constexpr bool NewtonSchulzIsSmall(DType dtype, int64_t rows, int64_t cols) {
  const int64_t n = rows < cols ? rows : cols;
  // Where work is heavy, two blocks a multiprocessor.
  return dtype == DType::kBf16 && n <= 128 &&
         NewtonSchulzShared(rows, cols) <= int64_t{n <= 64 ? 224 : 113} << 10;
}
// Of the runs: p ← p − rate · (scale · o + decay · p); `copy` as in AdamW.
using MuonApplyFn = void(Stream&, double scale, double decay, const Tensor& step, FlatRuns runs,
                         const Tensor& o, Tensor& p, Tensor& copy);

// sum f64 [1] += Σ x², accumulated in double in a fixed order.
using SumSquaresFn = void(Stream&, const Tensor& x, Tensor& sum);
// total f64 [1] += Σ x, likewise.
using SumFn = void(Stream&, const Tensor& x, Tensor& total);

namespace cpu {
AdamWFn AdamW;
AdamRowsFn AdamRows;
MuonMomentumFn MuonMomentum;
NewtonSchulzFn NewtonSchulz;
MuonApplyFn MuonApply;
SumSquaresFn SumSquares;
SumFn Sum;
}  // namespace cpu
namespace gpu {
AdamWFn AdamW;
AdamRowsFn AdamRows;
MuonMomentumFn MuonMomentum;
NewtonSchulzFn NewtonSchulz;
MuonApplyFn MuonApply;
SumSquaresFn SumSquares;
SumFn Sum;
}  // namespace gpu

}  // namespace mneme
