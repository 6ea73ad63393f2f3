#include "kernels/ops/matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "tests/device_under_test.h"
#include "tests/naive.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

Trans Flag(bool turned) { return turned ? Trans::kYes : Trans::kNo; }

// y = op(a) · op(b) + addend, and the gradients as the layers make them.
OpCase Product(int64_t m, int64_t n, int64_t k, bool ta, bool tb) {
  OpCase c("matmul");
  c.Activation("a", ta ? Shape{k, m} : Shape{m, k});
  c.Weight("b", tb ? Shape{n, k} : Shape{k, n});
  c.Activation("addend", {m, n});
  c.Output("y", {m, n});
  c.forward = [=](OpRun& r) {
    r.kernels.matmul(r.stream, r["a"], Flag(ta), r["b"], Flag(tb), r["addend"], r["y"]);
  };
  c.backward = [=](OpRun& r) {
    const auto multiply = r.kernels.matmul;
    if (ta) {
      multiply(r.stream, r["b"], Flag(tb), r["dy"], Trans::kYes, {}, r["da"]);
    } else {
      multiply(r.stream, r["dy"], Trans::kNo, r["b"], Flag(!tb), {}, r["da"]);
    }
    if (tb) {
      multiply(r.stream, r["dy"], Trans::kYes, r["a"], Flag(ta), r["db"], r["db"]);
    } else {
      multiply(r.stream, r["a"], Flag(!ta), r["dy"], Trans::kNo, r["db"], r["db"]);
    }
    r.kernels.copy(r.stream, r["dy"], r["daddend"]);
  };
  c.same_bits_on_teams = false;  // the BLAS library cuts large products among its threads
  c.same_bits_moved = false;     // and on a GPU chooses by alignment
  return c;
}

TEST(MatmulTest, AnswersAll) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      CheckOp(Product(1, 1, 1, ta, tb));
      CheckOp(Product(7, 33, 5, ta, tb));
      CheckOp(Product(67, 20, 137, ta, tb));
    }
  }
}

TEST(MatmulTest, AgreesWithThreeLoops) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const OpCase c = Product(19, 34, 53, ta, tb);
      Allocator allocator{Device{}};
      Stream stream{Device{}, allocator};
      OpRun r{stream, CpuKernels(), {}};
      Tensor a = Tensor::Empty(stream, DType::kF64, c.args[0].shape);
      Tensor b = Tensor::Empty(stream, DType::kF64, c.args[1].shape);
      for (int64_t i = 0; i < a.elements(); ++i)
        a.data<double>()[i] = std::sin(1.0 + 3.0 * static_cast<double>(i));
      for (int64_t i = 0; i < b.elements(); ++i)
        b.data<double>()[i] = std::cos(2.0 + 5.0 * static_cast<double>(i));
      Tensor y = Tensor::Zeros(stream, DType::kF64, {19, 34});
      y.data<double>()[0] = 3;
      CpuKernels().matmul(stream, a, Flag(ta), b, Flag(tb), y, y);
      Doubles expected = NaiveMatmul(19, 34, 53, a.data<double>(), ta, b.data<double>(), tb);
      expected[0] += 3;
      EXPECT_LE(RelativeDistance(Values(y), expected), 1e-14);
    }
  }
}

TEST(MatmulTest, NothingToSumGivesZeros) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  Tensor a = Tensor::Empty(stream, DType::kF32, {2, 0});
  Tensor b = Tensor::Empty(stream, DType::kF32, {0, 3});
  Tensor c = Tensor::Zeros(stream, DType::kF32, {2, 3});
  CpuKernels().fill(stream, 7, c);
  CpuKernels().matmul(stream, a, Trans::kNo, b, Trans::kNo, c, c);
  EXPECT_EQ(Values(c), Doubles(6, 7.0));
  CpuKernels().matmul(stream, a, Trans::kNo, b, Trans::kNo, {}, c);
  EXPECT_EQ(Values(c), Doubles(6, 0.0));
}

// Ranks may be threads of one process: each with a team of one, all in the BLAS library at once.
TEST(MatmulTest, ThreadsAtOnceDoNotMeet) {
  constexpr int kThreads = 4;
  std::vector<int64_t> wrong(kThreads);
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) {
    threads.emplace_back([&wrong, id] {
      omp_set_num_threads(1);
      Allocator allocator{Device{}};
      Stream stream{Device{}, allocator};
      Tensor a = Tensor::Empty(stream, DType::kF32, {70, 90});
      Tensor b = Tensor::Empty(stream, DType::kF32, {90, 60});
      Tensor c = Tensor::Empty(stream, DType::kF32, {70, 60});
      CpuKernels().fill(stream, id + 1, a);
      CpuKernels().fill(stream, 1, b);
      for (int repeat = 0; repeat < 500; ++repeat) {
        CpuKernels().matmul(stream, a, Trans::kNo, b, Trans::kNo, {}, c);
        const float expected = 90.0f * static_cast<float>(id + 1);
        const float* x = c.data<float>();
        wrong[static_cast<size_t>(id)] +=
            std::count_if(x, x + c.elements(), [=](float v) { return v != expected; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int64_t>(kThreads));
}

OpCase Groups(int64_t k, int64_t n, bool tb,
              const std::vector<int64_t>& offsets = {0, 3, 3, 8, 9}) {
  OpCase c("grouped_matmul");
  const int64_t rows = offsets.back(), groups = static_cast<int64_t>(offsets.size()) - 1;
  c.Activation("a", {rows, k});
  c.Weight("b", tb ? Shape{groups, n, k} : Shape{groups, k, n});
  c.Integers("offsets", DType::kI64, {groups + 1}, offsets);
  c.Output("y", {rows, n});
  c.forward = [=](OpRun& r) {
    r.kernels.grouped_matmul(r.stream, r["a"], r["b"], Flag(tb), r["offsets"], r["y"]);
  };
  c.backward = [=](OpRun& r) {
    r.kernels.grouped_matmul(r.stream, r["dy"], r["b"], Flag(!tb), r["offsets"], r["da"]);
    const Tensor& left = tb ? r["dy"] : r["a"];
    const Tensor& right = tb ? r["a"] : r["dy"];
    r.kernels.grouped_matmul_weight_grad(r.stream, left, right, r["offsets"], r["db"]);
  };
  c.same_bits_on_teams = false;
  return c;
}

TEST(GroupedMatmulTest, AnswersAll) {
  CheckOp(Groups(5, 7, false));
  CheckOp(Groups(33, 12, true));
}

// What the Hopper kernel takes: parts of tiles in every dim, groups over several tiles, depths that
// go round its ring, groups of none, of one row, and of one row more than a tile.
TEST(GroupedMatmulTest, AnswersAtWidthsOfTheFastKernels) {
  const std::vector<int64_t> several = {0, 0, 1, 130, 131, 131, 500, 901};
  const auto check = [](const OpCase& c) {
    if (TestingGpu()) return CheckOp(c);
    ExpectAgrees(c, CpuKernels(), DType::kF32, CpuKernels(), DType::kF64, c.tolerance);
  };
  for (const bool tb : {false, true}) {
    check(Groups(64, 64, tb, several));
    check(Groups(328, 264, tb, several));
    check(Groups(72, 600, tb, several));
    check(Groups(512, 512, tb, {0, 700}));
  }
}

TEST(GroupedMatmulTest, LeavesRowsBeyondTheLastGroupAlone) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  Tensor a = Tensor::Empty(stream, DType::kF64, {5, 2});
  Tensor b = Tensor::Empty(stream, DType::kF64, {2, 2, 2});
  Tensor c = Tensor::Empty(stream, DType::kF64, {5, 2});
  CpuKernels().fill(stream, 1, a);
  CpuKernels().fill(stream, 1, b);
  CpuKernels().fill(stream, -5, c);
  int64_t offsets[] = {0, 1, 3};
  CpuKernels().grouped_matmul(stream, a, b, Trans::kNo, Tensor::Wrap(offsets, DType::kI64, {3}), c);
  EXPECT_EQ(Values(c), (Doubles{2, 2, 2, 2, 2, 2, -5, -5, -5, -5}));
}

// A processor that the matrix library does not know gets kernels that suit it all the same.
TEST(BlasCoreTest, ReplacesOnlyPoorChoices) {
  EXPECT_EQ(cpu::BlasCoreFor("Prescott", true), "SkylakeX");
  EXPECT_EQ(cpu::BlasCoreFor("Nehalem", false), "Haswell");
  EXPECT_EQ(cpu::BlasCoreFor("SkylakeX", true), "");
  EXPECT_EQ(cpu::BlasCoreFor("COOPERLAKE", true), "");
  EXPECT_EQ(cpu::BlasCoreFor("Zen", true), "");
}

}  // namespace
}  // namespace mneme::test
