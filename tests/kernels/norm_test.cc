#include "kernels/ops/norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

OpCase Norm(int64_t rows, int64_t width, int64_t branches, bool skips = false) {
  OpCase c("rms_norm");
  c.Activation("x", {rows, width});
  c.Weight("w", {branches, width});
  c.Output("y", {rows, width});
  if (skips) c.Output("skip", {rows, width});  // x also goes another way
  c.Note("rstd", {rows});
  c.Accurate({"w", "rstd"});
  c.forward = [skips](OpRun& r) {
    r.kernels.rms_norm(r.stream, r["x"], r["w"], 1e-5, r["y"], r["rstd"]);
    if (skips) r.kernels.copy(r.stream, r["x"], r["skip"]);
  };
  c.backward = [skips](OpRun& r) {
    r.kernels.rms_norm_grad(r.stream, r["dy"], r["x"], r["w"], r["rstd"],
                            skips ? r["dskip"] : Tensor(), r["dx"], r["dw"]);
  };
  return c;
}

TEST(NormTest, AnswersAll) {
  ExpectBounds(Norm(1, 1, 1), CpuKernels(), DType::kF32);
  CheckOp(Norm(1, 5, 1));
  CheckOp(Norm(7, 33, 1));
  CheckOp(Norm(7, 33, 1, true));
  CheckOp(Norm(70, 256, 1));
  CheckOp(Norm(12, 137, 4));
  CheckOp(Norm(300, 64, 3));
  CheckOp(Norm(50, 264, 1));
  CheckOp(Norm(50, 264, 2, true));
  CheckOp(Norm(41, 2560, 1));
  CheckOp(Norm(21, 2560, 1, true));
  CheckOp(Norm(12, 512, 4));
  CheckOp(Norm(3, 4608, 1));
  CheckOpOnGpu(Norm(5000, 512, 1, true));
}

TEST(NormTest, UsesTheWeightOfItsBranchAndTheRootOfTheMeanSquare) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  double x[] = {3, 4, 6, 8};
  double w[] = {1, 1, 10, 100};
  double y[4];
  double rstd[2];
  Tensor out = Tensor::Wrap(y, DType::kF64, {2, 2});
  Tensor note = Tensor::Wrap(rstd, DType::kF64, {2});
  CpuKernels().rms_norm(stream, Tensor::Wrap(x, DType::kF64, {2, 2}),
                        Tensor::Wrap(w, DType::kF64, {2, 2}), 0.5, out, note);
  EXPECT_DOUBLE_EQ(rstd[0], 1 / std::sqrt(13.0));
  EXPECT_DOUBLE_EQ(y[0], 3 / std::sqrt(13.0));
  EXPECT_DOUBLE_EQ(y[2], 60 / std::sqrt(50.5));
  EXPECT_DOUBLE_EQ(y[3], 800 / std::sqrt(50.5));
}

TEST(NormTest, ARowOfZerosStaysFinite) {
  OpCase c = Norm(2, 8, 1);
  c.args[0].value = [](int64_t) { return 0; };
  c.forward = [](OpRun& r) {
    r.kernels.rms_norm(r.stream, r["x"], r["w"], 1e-20, r["y"], r["rstd"]);
  };
  ExpectBounds(c, CpuKernels(), DType::kF32);
}

}  // namespace
}  // namespace mneme::test
