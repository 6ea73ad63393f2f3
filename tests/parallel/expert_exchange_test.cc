// Experts spread over an axis give what they give on one rank: outputs, and gradients of tokens,
// weights and matrices.
#include "parallel/expert_exchange.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

constexpr int64_t kExperts = 7;  // uneven on every axis
constexpr int64_t kWidth = 4;
constexpr int64_t kHidden = 3;
constexpr int64_t kChosen = 3;

struct Batch {
  std::vector<double> x, dy, weights;
  std::vector<int32_t> experts;
  int64_t tokens;
};

double Draw(int64_t a, int64_t b) { return std::sin(static_cast<double>(a * 13 + b * 7 + 1)); }

// Tokens of one rank; rank 2 has none, and rank 1 all go to the same experts.
Batch BatchOf(int rank) {
  Batch b;
  b.tokens = rank == 2 ? 0 : 5 + rank;
  for (int64_t t = 0; t < b.tokens; ++t) {
    for (int64_t d = 0; d < kWidth; ++d) {
      b.x.push_back(Draw(rank * 100 + t, d));
      b.dy.push_back(Draw(rank * 100 + t, d + 50));
    }
    for (int64_t k = 0; k < kChosen; ++k) {
      const int64_t first = rank == 1 ? 4 : rank * 3 + t;
      b.experts.push_back(static_cast<int32_t>((first + k * 2) % kExperts));
      b.weights.push_back(0.3 + 0.1 * Draw(t, k));
    }
  }
  return b;
}

// Everything that a rank gets out of forward and backward; matrices of its experts.
struct Result {
  std::vector<double> y, dx, dweights, d_gate_up, d_down;
};

std::vector<double> ToVector(const Tensor& x) {
  return {x.data<double>(), x.data<double>() + x.elements()};
}

Result RunExperts(Comm& axis, std::vector<Batch> batches) {
  TestStream t;
  const Kernels& kernels = CpuKernels();
  ExpertExchange exchange(axis, kernels, kExperts);
  const Range local = exchange.local();
  std::vector<double> gate_up, down;
  for (int64_t e = local.begin; e < local.end; ++e) {
    for (int64_t i = 0; i < 2 * kHidden * kWidth; ++i) gate_up.push_back(Draw(e + 1000, i));
    for (int64_t i = 0; i < kHidden * kWidth; ++i) down.push_back(Draw(e + 2000, i));
  }
  const Shape in_shape{local.size(), 2 * kHidden, kWidth};
  const Shape out_shape{local.size(), kWidth, kHidden};
  const Tensor w_in = Tensor::Wrap(gate_up.data(), DType::kF64, in_shape);
  const Tensor w_out = Tensor::Wrap(down.data(), DType::kF64, out_shape);
  Tensor d_in = Tensor::Zeros(t.stream, DType::kF64, in_shape);
  Tensor d_out = Tensor::Zeros(t.stream, DType::kF64, out_shape);
  Result result;
  for (Batch& b : batches) {
    const Tensor x = Tensor::Wrap(b.x.data(), DType::kF64, {b.tokens, kWidth});
    const Tensor dy = Tensor::Wrap(b.dy.data(), DType::kF64, {b.tokens, kWidth});
    const Tensor weights = Tensor::Wrap(b.weights.data(), DType::kF64, {b.tokens, kChosen});
    const Tensor experts = Tensor::Wrap(b.experts.data(), DType::kI32, {b.tokens, kChosen});
    const RoutedTokens routed = exchange.Dispatch(t.stream, x, experts, weights).Wait(t.stream);
    const int64_t rows = routed.x.dim(0);
    ExpertsSaved saved;
    Tensor y_here = Tensor::Empty(t.stream, DType::kF64, {rows, kWidth});
    kernels.experts(t.stream, routed.x, routed.experts, routed.weights, w_in, w_out,
                    exchange.AddsHere() ? x : Tensor(), y_here, saved);
    Tensor y = exchange.Combine(t.stream, routed, y_here, b.tokens).Wait(t.stream);
    if (!exchange.AddsHere()) kernels.add(t.stream, x, y);
    const Tensor dy_here = exchange.CombineGrad(t.stream, routed, dy).Wait(t.stream);
    Tensor dx_here = Tensor::Empty(t.stream, DType::kF64, {rows, kWidth});
    Tensor dweights_here = Tensor::Empty(t.stream, DType::kF64, {rows, kChosen});
    kernels.experts_grad(t.stream, dy_here, routed.x, routed.weights, w_in, w_out, saved, dx_here,
                         dweights_here, d_in, d_out);
    const ExpertExchange::SourceGrad grad =
        exchange.DispatchGrad(t.stream, routed, dx_here, dweights_here, experts).Wait(t.stream);
    const auto append = [](std::vector<double>& to, const Tensor& from) {
      const std::vector<double> values = ToVector(from);
      to.insert(to.end(), values.begin(), values.end());
    };
    append(result.y, y);
    append(result.dx, grad.dx);
    append(result.dweights, grad.dweights);
  }
  result.d_gate_up = ToVector(d_in);
  result.d_down = ToVector(d_out);
  return result;
}

void ExpectNear(const std::vector<double>& got, const double* want, const char* what) {
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12) << what << " " << i;
}

TEST(ExpertExchange, AnAxisOfNGivesWhatOneRankGives) {
  OnGroups([](Comm& axis) {
    std::vector<Batch> all;
    for (int r = 0; r < axis.size(); ++r) all.push_back(BatchOf(r));
    const Result whole = RunExperts(*MakeSoloComm(), all);
    const Result mine = RunExperts(axis, {BatchOf(axis.rank())});
    int64_t tokens_before = 0;
    for (int r = 0; r < axis.rank(); ++r) tokens_before += all[static_cast<size_t>(r)].tokens;
    ExpectNear(mine.y, whole.y.data() + tokens_before * kWidth, "y");
    ExpectNear(mine.dx, whole.dx.data() + tokens_before * kWidth, "dx");
    ExpectNear(mine.dweights, whole.dweights.data() + tokens_before * kChosen, "dweights");
    const int64_t first = PartOf(kExperts, axis.size(), axis.rank()).begin;
    ExpectNear(mine.d_gate_up, whole.d_gate_up.data() + first * 2 * kHidden * kWidth, "gate_up");
    ExpectNear(mine.d_down, whole.d_down.data() + first * kHidden * kWidth, "down");
    // The comparison is of something.
    double sum = 0;
    for (double v : whole.dweights) sum += std::fabs(v);
    EXPECT_GT(sum, 0.1);
  });
}

// A token goes once to each rank that owns any of its experts, in order of tokens.
TEST(ExpertExchange, SendsATokenOnceToEachOwner) {
  OnGroups([](Comm& axis) {
    TestStream t;
    Batch b = BatchOf(0);
    ExpertExchange exchange(axis, CpuKernels(), kExperts);
    const Tensor x = Tensor::Wrap(b.x.data(), DType::kF64, {b.tokens, kWidth});
    const Tensor weights = Tensor::Wrap(b.weights.data(), DType::kF64, {b.tokens, kChosen});
    const Tensor experts = Tensor::Wrap(b.experts.data(), DType::kI32, {b.tokens, kChosen});
    const RoutedTokens routed = exchange.Dispatch(t.stream, x, experts, weights).Wait(t.stream);
    if (axis.size() == 1) {
      EXPECT_EQ(routed.x.raw(), x.raw());  // a view
      return;
    }
    size_t row = 0;
    for (int d = 0; d < axis.size(); ++d) {
      const Range owned = PartOf(kExperts, axis.size(), d);
      for (int64_t token = 0; token < b.tokens; ++token) {
        bool goes = false;
        for (int64_t k = 0; k < kChosen; ++k) {
          const int32_t e = b.experts[static_cast<size_t>(token * kChosen + k)];
          goes = goes || (e >= owned.begin && e < owned.end);
        }
        if (!goes) continue;
        ASSERT_LT(static_cast<int64_t>(row), routed.sent.elements());
        EXPECT_EQ(routed.sent.data<int32_t>()[row++], token);
      }
    }
    EXPECT_EQ(static_cast<int64_t>(row), routed.sent.elements());
    // All ranks sent the same tokens: as many came from each.
    for (int64_t rows : routed.recv) EXPECT_EQ(rows, routed.recv[0]);
  });
}

// Rows of neighbouring members stay together while there is room; a member's own are not parted.
TEST(ExpertExchange, PiecesAreRowsOfNeighbours) {
  TestStream t;
  RoutedTokens routed;
  routed.x = Tensor::Zeros(t.stream, DType::kF64, {12, 1});
  routed.recv = {3, 0, 4, 5};
  routed.pairs = {5, 0, 4, 9};
  const auto pieces = [&](int64_t most) {
    std::vector<std::vector<int64_t>> out;
    for (const ExpertPiece& p : PiecesOf(routed, most))
      out.push_back({p.rows.begin, p.rows.end, p.pairs});
    return out;
  };
  using Pieces = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(pieces(18), (Pieces{{0, 12, 18}}));
  EXPECT_EQ(pieces(17), (Pieces{{0, 7, 9}, {7, 12, 9}}));
  EXPECT_EQ(pieces(8), (Pieces{{0, 3, 5}, {3, 7, 4}, {7, 12, 9}}));
}

}  // namespace
}  // namespace mneme
