#include "kernels/ops/experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/core/random.h"
#include "tests/device_under_test.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

using testing::ElementsAre;

struct Sizes {
  int64_t rows, hidden, width, experts, top_k;
};

// The kth expert of a row: distinct within it, about one in four elsewhere.
int64_t SomeExpert(const Sizes& s, int64_t row, int64_t k) {
  if (RandomInt(MakeKey(5, "elsewhere"), static_cast<uint64_t>(row * s.top_k + k), 4) == 0)
    return -1;
  return Permute(MakeKey(5, "experts of " + std::to_string(row)), k, s.experts);
}

OpCase Feed(const Sizes& s, const std::function<int64_t(int64_t row, int64_t k)>& expert) {
  OpCase c("experts");
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < s.rows * s.top_k; ++i) ids.push_back(expert(i / s.top_k, i % s.top_k));
  const auto scaled = [](const char* name) {
    return [name](int64_t i) {
      return 0.5 * RandomNormal(MakeKey(5, name), static_cast<uint64_t>(i));
    };
  };
  c.Activation("x", {s.rows, s.hidden});
  c.Activation("weights", {s.rows, s.top_k});
  c.Activation("addend", {s.rows, s.hidden});
  c.Integers("ids", DType::kI32, {s.rows, s.top_k}, ids);
  c.Weight("gate_up", {s.experts, 2 * s.width, s.hidden}, scaled("gate_up"));
  c.Weight("down", {s.experts, s.hidden, s.width}, scaled("down"));
  c.Output("y", {s.rows, s.hidden});
  c.Accurate({"weights"});
  c.bf16_tolerance = 2.5e-2;  // the addend may cancel most of the sum
  auto saved = std::make_shared<ExpertsSaved>();
  const int64_t pairs = std::count_if(ids.begin(), ids.end(), [](int64_t e) { return e >= 0; });
  c.forward = [saved, pairs](OpRun& r) {
    saved->most_pairs = pairs;
    r.kernels.experts(r.stream, r["x"], r["ids"], r["weights"], r["gate_up"], r["down"],
                      r["addend"], r["y"], *saved);
  };
  c.backward = [saved](OpRun& r) {
    r.kernels.experts_grad(r.stream, r["dy"], r["x"], r["weights"], r["gate_up"], r["down"], *saved,
                           r["dx"], r["dweights"], r["dgate_up"], r["ddown"]);
    r.kernels.copy(r.stream, r["dy"], r["daddend"]);
    *saved = {};
  };
  return c;
}

OpCase Feed(const Sizes& s) {
  return Feed(s, [s](int64_t row, int64_t k) { return SomeExpert(s, row, k); });
}

TEST(ExpertsTest, AnswersAll) {
  CheckOp(Feed({1, 1, 1, 1, 1}, [](int64_t, int64_t) { return 0; }));
  CheckOp(Feed({7, 5, 3, 4, 2}));
  CheckOp(Feed({9, 8, 6, 5, 3}));
  CheckOp(Feed({137, 7, 5, 6, 3}));
}

// Widths and counts that the Hopper kernels take: whole tiles and parts of them, several tiles a
// group, groups that end inside a tile, and (expert 3) a group without rows.
TEST(ExpertsTest, AnswersAllAtWidthsOfTheFastKernels) {
  const auto some = [](const Sizes& s) {
    return Feed(s, [s](int64_t row, int64_t k) {
      const int64_t e = SomeExpert(s, row, k);
      return e == 3 ? -1 : e;
    });
  };
  const auto check = [](const OpCase& c) {
    if (TestingGpu()) return CheckOp(c);
    ExpectAgrees(c, CpuKernels(), DType::kF32, CpuKernels(), DType::kF64, c.tolerance);
  };
  check(some({300, 64, 32, 5, 2}));
  check(some({1000, 264, 200, 5, 3}));
  check(some({700, 512, 256, 9, 1}));
  check(some({900, 136, 328, 5, 2}));
  check(some({300, 1032, 72, 4, 2}));
}

// More tiles than a GPU has multiprocessors, so that blocks go from tile to tile, and rows enough
// for gradients of weights to be summed in parts.
TEST(ExpertsTest, AnswersAllOfManyTiles) {
  const Sizes s{20000, 64, 72, 5, 2};
  const OpCase c = Feed(s, [s](int64_t row, int64_t k) {
    const int64_t e = SomeExpert(s, row, k);
    return row < 9000 && e == 3 ? -1 : e;
  });
  if (TestingGpu()) return CheckOp(c);
  ExpectAgrees(c, CpuKernels(), DType::kF32, CpuKernels(), DType::kF64, c.tolerance);
}

// Runs of the plan in several blocks, all pairs of one warp on one expert.
TEST(ExpertsTest, ManyTokensOnFewExperts) {
  const Sizes s{3000, 16, 8, 200, 4};
  const OpCase c =
      Feed(s, [](int64_t row, int64_t k) { return row < 1500 ? 7 + k : row % 196 + k; });
  if (TestingGpu()) return CheckOp(c);
  ExpectAgrees(c, CpuKernels(), DType::kF32, CpuKernels(), DType::kF64, c.tolerance);
}

TEST(ExpertsTest, AllTokensOnOneExpert) {
  const auto second = [](int64_t, int64_t) { return 2; };
  CheckOp(Feed({7, 5, 3, 4, 1}, second));
  if (TestingGpu()) CheckOp(Feed({640, 64, 64, 4, 1}, second));
}

TEST(ExpertsTest, NothingIsLocal) {
  const OpCase c = Feed({7, 5, 3, 4, 2}, [](int64_t, int64_t) { return -1; });
  ExpectBounds(c, CpuKernels(), DType::kF32);
  ExpectGradient(c, CpuKernels());
}

// One token at a time, straight from the formula.
std::vector<double> Naive(OpRun& r, const Sizes& s) {
  const double *x = r["x"].data<double>(), *c = r["weights"].data<double>();
  const double *gate_up = r["gate_up"].data<double>(), *down = r["down"].data<double>();
  const auto* ids = r["ids"].data<int32_t>();
  std::vector<double> y(static_cast<size_t>(s.rows * s.hidden));
  for (int64_t i = 0; i < s.rows * s.top_k; ++i) {
    if (ids[i] < 0) continue;
    const int64_t row = i / s.top_k;
    for (int64_t f = 0; f < s.width; ++f) {
      double gate = 0, up = 0;
      for (int64_t d = 0; d < s.hidden; ++d) {
        gate += gate_up[(ids[i] * 2 * s.width + f) * s.hidden + d] * x[row * s.hidden + d];
        up += gate_up[(ids[i] * 2 * s.width + s.width + f) * s.hidden + d] * x[row * s.hidden + d];
      }
      const double act = gate / (1 + std::exp(-gate)) * up;
      for (int64_t d = 0; d < s.hidden; ++d)
        y[static_cast<size_t>(row * s.hidden + d)] +=
            c[i] * act * down[(ids[i] * s.hidden + d) * s.width + f];
    }
  }
  const std::vector<double> addend = Values(r["addend"]);
  for (size_t i = 0; i < y.size(); ++i) y[i] += addend[i];
  return y;
}

TEST(ExpertsTest, AgreesWithOneTokenAtATime) {
  const Sizes s{33, 7, 5, 6, 3};
  OpCase c = Feed(s);
  std::vector<double> naive, given;
  const auto forward = c.forward;
  c.forward = [&](OpRun& r) {
    forward(r);
    if (r["y"].dtype() != DType::kF64) return;
    naive = Naive(r, s);
    given = Values(r["y"]);
  };
  c.backward = {};
  ExpectBounds(c, CpuKernels(), DType::kF64);
  EXPECT_LE(RelativeDistance(given, naive), 1e-13);
}

// Four rows over three experts; expert 1 is empty, row 2 is unused capacity.
struct Hand {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  std::vector<int32_t> ids = {2, 0, 0, -1, -1, -1, 0, 2};
  std::vector<double> x = std::vector<double>(8, 1.0), weights = std::vector<double>(8, 0.5);
  std::vector<double> gate_up = std::vector<double>(12, 1.0), down = std::vector<double>(6, 1.0);
  std::vector<double> y = std::vector<double>(8, -1.0);
  ExpertsSaved saved;
  Tensor X() { return Tensor::Wrap(x.data(), DType::kF64, {4, 2}); }
  Tensor C() { return Tensor::Wrap(weights.data(), DType::kF64, {4, 2}); }
  Tensor GateUp() { return Tensor::Wrap(gate_up.data(), DType::kF64, {3, 2, 2}); }
  Tensor Down() { return Tensor::Wrap(down.data(), DType::kF64, {3, 2, 1}); }
  void Run() {
    Tensor out = Tensor::Wrap(y.data(), DType::kF64, {4, 2});
    CpuKernels().experts(stream, X(), Tensor::Wrap(ids.data(), DType::kI32, {4, 2}), C(), GateUp(),
                         Down(), {}, out, saved);
  }
};

TEST(ExpertsTest, ThePlanListsPairsByExpertThenToken) {
  Hand h;
  h.Run();
  EXPECT_THAT(Values(h.saved.offsets), ElementsAre(0, 3, 3, 5));
  EXPECT_THAT(Values(h.saved.order), ElementsAre(1, 2, 6, 0, 7));
  EXPECT_THAT(Values(h.saved.place), ElementsAre(3, 0, 1, -1, -1, -1, 2, 4));
}

// Capacity that no token uses is never read, and gives zeros.
TEST(ExpertsTest, UnusedRowsMayHoldAnything) {
  Hand h;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  h.x[4] = h.x[5] = nan;
  h.weights[3] = h.weights[4] = h.weights[5] = nan;
  h.Run();
  const double act = 2 / (1 + std::exp(-2.0)) * 2;
  EXPECT_THAT(h.y, testing::Pointwise(testing::DoubleNear(1e-14),
                                      {act, act, act / 2, act / 2, 0.0, 0.0, act, act}));
  std::vector<double> dy(8, 1.0), dx(8, nan), dweights(8, nan), dgate_up(12, 0.0), ddown(6, 0.0);
  dy[4] = dy[5] = nan;
  Tensor dx_t = Tensor::Wrap(dx.data(), DType::kF64, {4, 2});
  Tensor dw_t = Tensor::Wrap(dweights.data(), DType::kF64, {4, 2});
  Tensor dg_t = Tensor::Wrap(dgate_up.data(), DType::kF64, {3, 2, 2});
  Tensor dd_t = Tensor::Wrap(ddown.data(), DType::kF64, {3, 2, 1});
  CpuKernels().experts_grad(h.stream, Tensor::Wrap(dy.data(), DType::kF64, {4, 2}), h.X(), h.C(),
                            h.GateUp(), h.Down(), h.saved, dx_t, dw_t, dg_t, dd_t);
  for (const double v : dx) EXPECT_TRUE(std::isfinite(v));
  EXPECT_EQ(dx[4], 0);
  EXPECT_EQ(dweights[3], 0);
  EXPECT_EQ(dweights[5], 0);
  EXPECT_NEAR(dweights[0], 2 * act, 1e-14);
  for (size_t e : {size_t{4}, size_t{7}}) EXPECT_EQ(dgate_up[e], 0);  // the empty expert
  for (const double v : ddown) EXPECT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace mneme::test
