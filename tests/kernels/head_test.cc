#include "kernels/ops/head.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

constexpr double kScale = 0.37;

std::vector<int64_t> Targets(int64_t tokens, int64_t vocab) {
  std::vector<int64_t> targets;
  for (int64_t t = 0; t < tokens; ++t) {
    targets.push_back(
        t % 5 == 3 ? -1 : RandomInt(MakeKey(3, "targets"), static_cast<uint64_t>(t), vocab));
  }
  return targets;
}

// total = kScale · Σ losses, of which the op's own gradient is that of scale · Σ losses.
OpCase Head(int64_t tokens, int64_t vocab, int64_t width) {
  OpCase c("head_loss");
  c.Activation("x", {tokens, width});
  c.Weight("w", {vocab, width});
  c.Integers("targets", DType::kI32, {tokens}, Targets(tokens, vocab));
  c.Note("losses", {tokens});
  c.Output("total", {1});
  c.Accurate({"losses", "total"});
  c.forward = [](OpRun& r) {
    Tensor none;
    Tensor scale = Tensor::Zeros(r.stream, DType::kF64, {1});
    r.kernels.head_loss(r.stream, r["x"], r["w"], r["targets"], scale, r["losses"], none, none);
    double sum = 0;
    for (const double loss : Values(r["losses"])) sum += kScale * loss;
    r.kernels.fill(r.stream, sum, r["total"]);
  };
  c.backward = [](OpRun& r) {
    Tensor scale = Tensor::Empty(r.stream, Accurate(r.real), {1});
    r.kernels.fill(r.stream, kScale * Values(r["dtotal"])[0], scale);
    const std::vector<double> before = Values(r["losses"]);
    r.kernels.head_loss(r.stream, r["x"], r["w"], r["targets"], scale, r["losses"], r["dx"],
                        r["dw"]);
    EXPECT_EQ(Values(r["losses"]), before) << "the gradient changes the loss";
  };
  c.same_bits_on_teams = false;  // products of the BLAS library
  c.same_bits_moved = false;
  c.recordable = false;  // reads losses
  return c;
}

TEST(HeadLossTest, AnswersAll) {
  CheckOp(Head(1, 2, 3));
  CheckOp(Head(7, 33, 5));
  ExpectGradient(Head(7, 33, 5), PlainCpuKernels());
  OpCase c = Head(300, 21, 4);  // more than a chunk of tokens
  c.elements_checked = 12;
  CheckOp(c);
  if (!TestingGpu()) return;
  CheckOp(Head(67, 1031, 24));
  // Rows of one batch of a block, of several, and of more than its shared memory keeps.
  CheckOp(Head(37, 8192, 16));
  CheckOp(Head(19, 32768, 32));
  CheckOp(Head(9, 129280, 16));
}

TEST(HeadLossTest, FastAgreesWithPlain) {
  ExpectAgrees(Head(137, 1003, 33), CpuKernels(), DType::kF32, PlainCpuKernels(), DType::kF32,
               1e-5);
  ExpectAgrees(Head(515, 67, 12), CpuKernels(), DType::kF32, PlainCpuKernels(), DType::kF32, 1e-5);
}

TEST(HeadLossTest, IsMinusTheLogOfTheProbabilityAndZeroWhereNotCounted) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    Allocator allocator{Device{}};
    Stream stream{Device{}, allocator};
    double x[] = {1, 2, 1, 2};
    double w[] = {std::log(2.0), 0, 0, std::log(3.0) / 2, 0, 0};
    int32_t targets[] = {1, -1};
    double losses[] = {NAN, NAN};
    double scale[] = {1};
    Tensor none;
    Tensor out = Tensor::Wrap(losses, DType::kF64, {2});
    kernels->head_loss(stream, Tensor::Wrap(x, DType::kF64, {2, 2}),
                       Tensor::Wrap(w, DType::kF64, {3, 2}),
                       Tensor::Wrap(targets, DType::kI32, {2}),
                       Tensor::Wrap(scale, DType::kF64, {1}), out, none, none);
    EXPECT_NEAR(losses[0], std::log(6.0 / 3), 1e-15);  // logits log 2, log 3, 0
    EXPECT_EQ(losses[1], 0);
  }
}

TEST(HeadLossTest, HugeLogitsAreExactAndNonFiniteOnesAreSeen) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    Allocator allocator{Device{}};
    Stream stream{Device{}, allocator};
    const int64_t vocab = 19;
    Tensor x = Tensor::Zeros(stream, DType::kF32, {1, 1});
    Tensor w = Tensor::Zeros(stream, DType::kF32, {vocab, 1});
    Tensor targets = Tensor::Zeros(stream, DType::kI32, {1});
    Tensor scale = Tensor::Zeros(stream, DType::kF32, {1});
    Tensor losses = Tensor::Zeros(stream, DType::kF32, {1});
    Tensor none;
    const auto loss = [&](float weight) {
      x.data<float>()[0] = 1;
      w.data<float>()[7] = weight;
      kernels->head_loss(stream, x, w, targets, scale, losses, none, none);
      return losses.data<float>()[0];
    };
    EXPECT_FLOAT_EQ(loss(10000), 10000);
    EXPECT_FALSE(std::isfinite(loss(NAN)));
    EXPECT_FALSE(std::isfinite(loss(INFINITY)));
    EXPECT_NEAR(loss(-INFINITY), std::log(18.0), 1e-6);  // probability zero is no fault
  }
}

TEST(HeadLossTest, NeverHoldsAllLogits) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  const int64_t tokens = 2048;
  const int64_t vocab = 3000;
  Tensor x = Tensor::Zeros(stream, DType::kF32, {tokens, 4});
  Tensor w = Tensor::Zeros(stream, DType::kF32, {vocab, 4});
  Tensor targets = Tensor::Zeros(stream, DType::kI32, {tokens});
  Tensor scale = Tensor::Zeros(stream, DType::kF32, {1});
  Tensor losses = Tensor::Zeros(stream, DType::kF32, {tokens});
  Tensor dx = Tensor::Zeros(stream, DType::kF32, {tokens, 4});
  Tensor dw = Tensor::Zeros(stream, DType::kF32, {vocab, 4});
  CpuKernels().head_loss(stream, x, w, targets, scale, losses, dx, dw);
  EXPECT_LE(allocator.use(MemoryTag::kWorkspace).peak, 300 * vocab * 4);
  EXPECT_NEAR(losses.data<float>()[tokens - 1], std::log(3000.0), 1e-5);
}

}  // namespace
}  // namespace mneme::test
