#include "kernels/ops/activation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

OpCase Gated(int64_t rows, int64_t width) {
  OpCase c("swiglu");
  c.Activation("gate_up", {rows, 2 * width});
  c.Output("h", {rows, width});
  c.forward = [](OpRun& r) { r.kernels.swiglu(r.stream, r["gate_up"], r["h"]); };
  c.backward = [](OpRun& r) {
    r.kernels.swiglu_grad(r.stream, r["dh"], r["gate_up"], r["dgate_up"]);
  };
  return c;
}

TEST(SwiGluTest, AnswersAll) {
  CheckOp(Gated(1, 1));
  CheckOp(Gated(7, 33));
  CheckOp(Gated(67, 137));
  CheckOp(Gated(19, 328));
}

TEST(SwiGluTest, FastAgreesWithPlain) {
  ExpectAgrees(Gated(33, 201), CpuKernels(), DType::kF32, PlainCpuKernels(), DType::kF32, 1e-6);
}

TEST(SwiGluTest, IsSiluOfTheGateTimesUpAtEverySize) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  std::vector<float> in;
  const std::vector<float> gates = {-200, -89, -30, -1, -1e-30f, 0, 1e-3f, 2, 30, 89, 200};
  for (const float g : gates) in.push_back(g);
  for (size_t i = 0; i < gates.size(); ++i) in.push_back(3);
  const auto width = static_cast<int64_t>(gates.size());
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    Tensor h = Tensor::Zeros(stream, DType::kF32, {1, width});
    kernels->swiglu(stream, Tensor::Wrap(in.data(), DType::kF32, {1, 2 * width}), h);
    for (int64_t i = 0; i < width; ++i) {
      const double g = gates[static_cast<size_t>(i)];
      const double expected = 3 * g / (1 + std::exp(-g));
      EXPECT_NEAR(h.data<float>()[i], expected, 1e-6 * std::fabs(expected) + 1e-35) << g;
    }
  }
}

TEST(SwiGluTest, NotANumberIsPassedOn) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    OpCase c = Gated(1, 16);
    Allocator allocator{Device{}};
    Stream stream{Device{}, allocator};
    Tensor in = Tensor::Zeros(stream, DType::kF32, {1, 32});
    Tensor h = Tensor::Zeros(stream, DType::kF32, {1, 16});
    in.data<float>()[3] = NAN;
    in.data<float>()[16 + 5] = NAN;
    kernels->swiglu(stream, in, h);
    EXPECT_TRUE(std::isnan(h.data<float>()[3]));
    EXPECT_TRUE(std::isnan(h.data<float>()[5]));
    EXPECT_EQ(h.data<float>()[4], 0);
  }
}

}  // namespace
}  // namespace mneme::test
