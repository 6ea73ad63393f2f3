#include "kernels/ops/latent.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

constexpr int64_t kPositions = 11;

OpCase Split(int64_t tokens, int64_t latent, int64_t pairs) {
  OpCase c("latent");
  c.Activation("x", {tokens, latent + 2 * pairs});
  c.Weight("w", {1, latent});
  c.Fixed("table", {kPositions, pairs, 2}, [=](int64_t i) {
    const double angle =
        static_cast<double>(i / 2 / pairs) * std::pow(100.0, -static_cast<double>(i / 2 % pairs));
    return i % 2 == 0 ? std::cos(angle) : std::sin(angle);
  });
  std::vector<int64_t> positions;
  for (int64_t t = 0; t < tokens; ++t) positions.push_back(7 * t % kPositions);
  c.Integers("positions", DType::kI32, {tokens}, positions);
  c.Output("normed", {tokens, latent});
  c.Output("rotary", {tokens, 2 * pairs});
  c.Note("rstd", {tokens});
  c.Accurate({"w", "table", "rstd"});
  c.forward = [](OpRun& r) {
    r.kernels.latent(r.stream, r["x"], r["w"], 1e-5, r["table"], r["positions"], r["normed"],
                     r["rotary"], r["rstd"]);
  };
  c.backward = [](OpRun& r) {
    r.kernels.latent_grad(r.stream, r["dnormed"], r["drotary"], r["x"], r["w"], r["rstd"],
                          r["table"], r["positions"], r["dx"], r["dw"]);
  };
  return c;
}

TEST(LatentTest, AnswersAll) {
  CheckOp(Split(1, 1, 1));
  CheckOp(Split(5, 6, 3));
  CheckOp(Split(19, 64, 8));
  CheckOp(Split(70, 256, 16));
  CheckOp(Split(21, 512, 32));
  CheckOp(Split(9, 768, 4));
  CheckOpOnGpu(Split(5000, 256, 16));
}

// Both parts as the ops of their own make them.
TEST(LatentTest, IsTheNormOfOnePartAndTheTurnOfTheOther) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  double x[] = {3, 4, 2, 1, 6, 8, 5, 7};
  double w[] = {1, 10};
  double table[] = {1, 0, std::cos(0.3), std::sin(0.3)};
  int32_t positions[] = {0, 1};
  double normed[4], rotary[4], rstd[2];
  Tensor n = Tensor::Wrap(normed, DType::kF64, {2, 2});
  Tensor r = Tensor::Wrap(rotary, DType::kF64, {2, 2});
  Tensor s = Tensor::Wrap(rstd, DType::kF64, {2});
  CpuKernels().latent(stream, Tensor::Wrap(x, DType::kF64, {2, 4}),
                      Tensor::Wrap(w, DType::kF64, {1, 2}), 0.5,
                      Tensor::Wrap(table, DType::kF64, {2, 1, 2}),
                      Tensor::Wrap(positions, DType::kI32, {2}), n, r, s);
  EXPECT_DOUBLE_EQ(normed[0], 3 / std::sqrt(13.0));
  EXPECT_DOUBLE_EQ(normed[3], 80 / std::sqrt(50.5));
  EXPECT_DOUBLE_EQ(rotary[0], 2);
  EXPECT_DOUBLE_EQ(rotary[1], 1);
  EXPECT_NEAR(rotary[2], 5 * std::cos(0.3) - 7 * std::sin(0.3), 1e-14);
  EXPECT_NEAR(rotary[3], 5 * std::sin(0.3) + 7 * std::cos(0.3), 1e-14);
}

}  // namespace
}  // namespace mneme::test
