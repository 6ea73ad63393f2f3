#include "kernels/ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

OpCase Turn(int64_t tokens, int64_t heads, int64_t width, int64_t begin, int64_t pairs,
            std::vector<int64_t> positions) {
  OpCase c("rope");
  const int64_t table_rows = 11;
  c.Activation("x", {tokens, heads, width});
  c.Fixed("table", {table_rows, pairs, 2}, [=](int64_t i) {
    const double angle =
        static_cast<double>(i / 2 / pairs) * std::pow(100.0, -static_cast<double>(i / 2 % pairs));
    return i % 2 == 0 ? std::cos(angle) : std::sin(angle);
  });
  c.Integers("positions", DType::kI32, {tokens}, std::move(positions));
  c.Output("y", {tokens, heads, width});
  c.Accurate({"table"});
  c.forward = [=](OpRun& r) {
    r.kernels.copy(r.stream, r["x"], r["y"]);
    r.kernels.rope(r.stream, r["y"], begin, r["table"], r["positions"], false);
  };
  c.backward = [=](OpRun& r) {
    r.kernels.copy(r.stream, r["dy"], r["dx"]);
    r.kernels.rope(r.stream, r["dx"], begin, r["table"], r["positions"], true);
  };
  return c;
}

TEST(RopeTest, AnswersAll) {
  CheckOp(Turn(1, 1, 2, 0, 1, {3}));
  CheckOp(Turn(5, 3, 9, 5, 2, {0, 1, 2, 0, 10}));
  CheckOp(Turn(4, 2, 14, 2, 5, {9, 8, 7, 6}));
  CheckOp(Turn(6, 5, 48, 32, 8, {3, 0, 10, 1, 4, 9}));
  CheckOp(Turn(3, 9, 24, 0, 4, {2, 5, 7}));
}

TEST(RopeTest, TurnsPairsAsComplexNumbersAndLeavesTheRest) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  double x[] = {7, 1, 2, 3, 4, 8};
  double table[] = {1, 0, 1, 0, std::cos(0.3), std::sin(0.3), std::cos(0.1), std::sin(0.1)};
  int32_t positions[] = {1};
  Tensor xs = Tensor::Wrap(x, DType::kF64, {1, 1, 6});
  CpuKernels().rope(stream, xs, 1, Tensor::Wrap(table, DType::kF64, {2, 2, 2}),
                    Tensor::Wrap(positions, DType::kI32, {1}), false);
  EXPECT_EQ(x[0], 7);
  EXPECT_NEAR(x[1], 1 * std::cos(0.3) - 2 * std::sin(0.3), 1e-15);
  EXPECT_NEAR(x[2], 1 * std::sin(0.3) + 2 * std::cos(0.3), 1e-15);
  EXPECT_NEAR(x[3], 3 * std::cos(0.1) - 4 * std::sin(0.1), 1e-15);
  EXPECT_NEAR(x[4], 3 * std::sin(0.1) + 4 * std::cos(0.1), 1e-15);
  EXPECT_EQ(x[5], 8);
}

}  // namespace
}  // namespace mneme::test
