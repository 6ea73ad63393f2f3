#include "kernels/ops/route.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/core/random.h"
#include "tests/device_under_test.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

using testing::ElementsAre;

// Logits of a token are a permutation of equally spaced numbers: no two experts come near a tie.
double SpacedLogit(int64_t token, int64_t expert, int64_t experts) {
  const RandomKey key = MakeKey(11, "logits of token " + std::to_string(token));
  const auto place = static_cast<double>(Permute(key, expert, experts));
  return 4.0 * (place + 0.5) / static_cast<double>(experts) - 2.0 +
         0.003 * static_cast<double>(token % 3);
}

OpCase Routing(int64_t rows, int64_t length, int64_t experts, const RouteOptions& options,
               bool balance) {
  const int64_t tokens = rows * length;
  OpCase c("route");
  c.step = 1e-4;
  c.Activation("logits", {tokens, experts},
               [=](int64_t i) { return SpacedLogit(i / experts, i % experts, experts); });
  c.Fixed("bias", {experts}, [](int64_t e) { return e % 3 == 1 ? 0.25 : 0.0; });
  c.Note("scores", {tokens, experts});
  c.NoteOf("experts", DType::kI32, {tokens, options.top_k});
  c.Output("weights", {tokens, options.top_k});
  c.Accurate({"logits", "bias", "scores", "weights", "dweights"});
  c.Rounded({"dlogits"});
  c.SumOf("load", DType::kI64, {experts});
  if (balance) {
    c.Fixed("scale", {1}, [](int64_t) { return 3.0; });
    c.Sum("loss", {1});
    c.Note("f", {rows, experts});
    c.Note("scale_of_grad", {1});
    c.Accurate({"scale", "loss", "f", "scale_of_grad"});
  }
  c.Accurate({"logits", "bias", "scores", "weights"});
  c.Rounded({"dlogits"});
  c.forward = [=](OpRun& r) {
    r.kernels.route(r.stream, options, r["logits"], r["bias"], r["scores"], r["experts"],
                    r["weights"], r["load"]);
    if (balance)
      r.kernels.balance_loss(r.stream, options, length, r["scores"], r["experts"], r["scale"],
                             r["f"], r["loss"]);
  };
  c.backward = [=](OpRun& r) {
    Tensor none;
    if (balance) {
      r.kernels.copy(r.stream, r["scale"], r["scale_of_grad"]);
      r.kernels.scale(r.stream, r["dloss"], r["scale_of_grad"]);
    }
    r.kernels.route_grad(r.stream, options, length, r["scores"], r["experts"], r["weights"],
                         r["dweights"], balance ? r["f"] : none,
                         balance ? r["scale_of_grad"] : none, r["dlogits"]);
  };
  return c;
}

RouteOptions Options(int64_t top_k, bool softmax = false, bool normalize = true, double scale = 1,
                     int64_t groups = 1, int64_t kept = 1) {
  return {.top_k = top_k,
          .softmax = softmax,
          .normalize = normalize,
          .scale = scale,
          .groups = groups,
          .groups_kept = kept};
}

TEST(RouteTest, AnswersAll) {
  CheckOp(Routing(1, 1, 1, Options(1), false));
  for (const bool softmax : {false, true}) {
    for (const bool normalize : {false, true}) {
      CheckOp(Routing(1, 7, 7, Options(3, softmax, normalize, 2.5), false));
      CheckOp(Routing(3, 5, 12, Options(4, softmax, normalize, 1.5, 4, 2), true));
    }
  }
  CheckOp(Routing(1, 137, 9, Options(2), true));
  CheckOp(Routing(2, 4, 137, Options(6, true), true));
  if (TestingGpu()) {  // several experts a lane
    CheckOp(Routing(2, 3, 300, Options(16, false, true, 2.5, 10, 3), true));
    CheckOp(Routing(1, 700, 72, Options(6), true));
    CheckOp(Routing(1, 3, 512, Options(8, true), true));
  }
}

// A few tokens by hand, in double.
struct Small {
  Small(int64_t token_count, std::vector<double> logit_values, std::vector<double> bias_values,
        const RouteOptions& o)
      : options(o),
        tokens(token_count),
        logits(std::move(logit_values)),
        bias(std::move(bias_values)),
        scores(logits.size()),
        weights(static_cast<size_t>(tokens * o.top_k)),
        chosen(weights.size()),
        load(bias.size()) {
    const auto count = static_cast<int64_t>(bias.size());
    scores_tensor = Tensor::Wrap(scores.data(), DType::kF64, {tokens, count});
    chosen_tensor = Tensor::Wrap(chosen.data(), DType::kI32, {tokens, o.top_k});
    weights_tensor = Tensor::Wrap(weights.data(), DType::kF64, {tokens, o.top_k});
    load_tensor = Tensor::Wrap(load.data(), DType::kI64, {count});
    CpuKernels().route(stream, options, Tensor::Wrap(logits.data(), DType::kF64, {tokens, count}),
                       Tensor::Wrap(bias.data(), DType::kF64, {count}), scores_tensor,
                       chosen_tensor, weights_tensor, load_tensor);
  }
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  RouteOptions options;
  int64_t tokens;
  std::vector<double> logits, bias, scores, weights;
  std::vector<int32_t> chosen;
  std::vector<int64_t> load;
  Tensor scores_tensor, chosen_tensor, weights_tensor, load_tensor;
};

TEST(RouteTest, TiesGoToTheLowerIndex) {
  EXPECT_THAT(Small(1, {1, 1, 1, 1, 1}, {0, 0, 0, 0, 0}, Options(3)).chosen, ElementsAre(0, 1, 2));
  EXPECT_THAT(Small(1, {0, 2, 1, 2, 1}, {0, 0, 0, 0, 0}, Options(3, true)).chosen,
              ElementsAre(1, 3, 2));
}

TEST(RouteTest, BiasChoosesButDoesNotWeigh) {
  const Small s(1, {2, 1, 0, -1}, {0, 0, 0, 1}, Options(2, false, true, 3));
  EXPECT_THAT(s.chosen, ElementsAre(3, 0));
  const double s0 = 1 / (1 + std::exp(-2.0)), s3 = 1 / (1 + std::exp(1.0));
  EXPECT_DOUBLE_EQ(s.weights[0], 3 * s3 / (s0 + s3));
  EXPECT_DOUBLE_EQ(s.weights[1], 3 * s0 / (s0 + s3));
  EXPECT_THAT(s.load, ElementsAre(1, 0, 0, 1));
  const Small plain(1, {2, 1, 0, -1}, {0, 0, 0, 1}, Options(2, false, false, 3));
  EXPECT_DOUBLE_EQ(plain.weights[0], 3 * s3);
}

TEST(RouteTest, ScoresThatVanishStayFinite) {
  const Small s(1, {-800, -800, -800}, {0, 0, 0}, Options(2));
  EXPECT_THAT(s.chosen, ElementsAre(0, 1));
  EXPECT_THAT(s.weights, ElementsAre(0, 0));  // 0 / (0 + 1e-20)
}

TEST(RouteTest, SoftmaxStaysFiniteForLargeLogits) {
  const Small s(1, {1000, 999, 0}, {0, 0, 0}, Options(1, true, false));
  EXPECT_NEAR(s.weights[0], 1 / (1 + std::exp(-1.0)), 1e-15);
}

// Group 0 has the best expert, group 1 the best pair: DeepSeek-V3 keeps group 1, V2 keeps group 0.
TEST(RouteTest, GroupsCountTheirTwoBestUnderSigmoidAndTheirBestUnderSoftmax) {
  const std::vector<double> logits = {3, -3, -3, 2, 2, -3}, none(6, 0.0);
  EXPECT_THAT(Small(1, logits, none, Options(2, false, true, 1, 2, 1)).chosen, ElementsAre(3, 4));
  EXPECT_THAT(Small(1, logits, none, Options(2, true, true, 1, 2, 1)).chosen, ElementsAre(0, 1));
  // The bias counts in the choice of groups.
  EXPECT_THAT(Small(1, logits, {0, 0, 1, 0, 0, 0}, Options(2, false, true, 1, 2, 1)).chosen,
              ElementsAre(2, 0));
  // Equal groups: the lower ones are kept.
  EXPECT_THAT(Small(1, std::vector<double>(6, 1.0), none, Options(2, false, true, 1, 3, 2)).chosen,
              ElementsAre(0, 1));
}

TEST(RouteTest, AgreesWithASort) {
  const int64_t tokens = 40, experts = 16;
  std::vector<double> logits, bias;
  for (uint64_t i = 0; i < 640; ++i) logits.push_back(RandomNormal(MakeKey(1, "logits"), i));
  for (uint64_t i = 0; i < 16; ++i) bias.push_back(0.3 * RandomNormal(MakeKey(1, "bias"), i));
  const Small s(tokens, logits, bias, Options(5));
  std::vector<int64_t> load(16);
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> order(16);
    std::iota(order.begin(), order.end(), 0);
    const auto biased = [&](int32_t e) {
      return 1 / (1 + std::exp(-logits[static_cast<size_t>(t * experts + e)])) +
             bias[static_cast<size_t>(e)];
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return biased(a) > biased(b); });
    for (int64_t k = 0; k < 5; ++k) {
      EXPECT_EQ(s.chosen[static_cast<size_t>(t * 5 + k)], order[static_cast<size_t>(k)]);
      ++load[static_cast<size_t>(order[static_cast<size_t>(k)])];
    }
  }
  EXPECT_EQ(s.load, load);
}

// The step will be skipped; until then indices must stay distinct and in range.
TEST(RouteTest, NotANumberLeadsNowhereElse) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const RouteOptions& o : {Options(3), Options(3, true), Options(3, false, true, 1, 3, 2)}) {
    Small s(1, std::vector<double>(6, nan), std::vector<double>(6, 0.0), o);
    std::sort(s.chosen.begin(), s.chosen.end());
    EXPECT_GE(s.chosen.front(), 0);
    EXPECT_LT(s.chosen.back(), 6);
    EXPECT_EQ(std::unique(s.chosen.begin(), s.chosen.end()), s.chosen.end());
  }
}

double Balance(Small& s, int64_t length, double scale, std::vector<double>& f, double start) {
  const int64_t experts = static_cast<int64_t>(s.bias.size()), rows = s.tokens / length;
  f.resize(static_cast<size_t>(rows * experts));
  Tensor frequency = Tensor::Wrap(f.data(), DType::kF64, {rows, experts});
  Tensor loss = Tensor::Wrap(&start, DType::kF64, {1});
  CpuKernels().balance_loss(s.stream, s.options, length, s.scores_tensor, s.chosen_tensor,
                            Tensor::Wrap(&scale, DType::kF64, {1}), frequency, loss);
  return start;
}

TEST(BalanceLossTest, IsOneForEachBalancedRowAndMoreForOthers) {
  // Each row of two tokens: balanced (experts 0 and 1), then both tokens on expert 0.
  Small s(4, {9, -9, -9, 9, 9, -9, 9, -9}, {0, 0}, Options(1));
  std::vector<double> f;
  const double loss = Balance(s, 2, 10, f, 5);
  EXPECT_THAT(f, ElementsAre(1, 1, 2, 0));
  const double p = s.scores[0] / (s.scores[0] + s.scores[1]);
  EXPECT_NEAR(loss, 5 + 10 * (1 + 2 * p), 1e-12);
}

TEST(BalanceLossTest, UsesTheBiasedChoice) {
  Small s(1, {2, 1}, {0, 5}, Options(1));
  std::vector<double> f;
  Balance(s, 1, 1, f, 0);
  EXPECT_THAT(f, ElementsAre(0, 2));
}

std::vector<double> Updated(std::vector<int64_t> load, double speed, double apply) {
  Allocator allocator{Device{}};
  Stream stream(Device{}, allocator);
  const auto n = static_cast<int64_t>(load.size());
  std::vector<double> bias(load.size(), 1.0);
  Tensor out = Tensor::Wrap(bias.data(), DType::kF64, {n});
  CpuKernels().bias_update(stream, Tensor::Wrap(load.data(), DType::kI64, {n}), speed,
                           Tensor::Wrap(&apply, DType::kF64, {1}), out);
  return bias;
}

OpCase Update(std::vector<int64_t> load, double apply) {
  OpCase c("bias_update");
  const auto experts = static_cast<int64_t>(load.size());
  c.Integers("load", DType::kI64, {experts}, std::move(load));
  c.FixedF64("apply", {1}, [=](int64_t) { return apply; });
  c.Sum("bias", {experts});
  c.Accurate({"bias", "dbias"});
  c.forward = [](OpRun& r) {
    r.kernels.bias_update(r.stream, r["load"], 0.25, r["apply"], r["bias"]);
  };
  return c;
}

TEST(BiasUpdateTest, AnswersAll) {
  CheckOp(Update({3, 5, 4}, 1));
  CheckOp(Update({3, 5, 4}, 0));
  CheckOp(Update(std::vector<int64_t>(300, int64_t{1} << 40), 1));
}

TEST(BiasUpdateTest, MovesTowardsTheMean) {
  EXPECT_THAT(Updated({1, 2, 3}, 0.5, 1), ElementsAre(1.5, 1, 0.5));
  // The mean is 4/3, a real number: 1 lies below, 2 above.
  EXPECT_THAT(Updated({1, 1, 2}, 0.5, 1), ElementsAre(1.5, 1.5, 0.5));
  EXPECT_THAT(Updated({4, 4}, 0.5, 1), ElementsAre(1, 1));
  EXPECT_THAT(Updated({0, 0, 0}, 0.5, 1), ElementsAre(1, 1, 1));
  EXPECT_THAT(Updated({1, 2, 3}, 0.5, 0), ElementsAre(1, 1, 1));
}

}  // namespace
}  // namespace mneme::test
