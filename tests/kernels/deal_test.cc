#include "kernels/ops/deal.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

// K different experts of `total` for each token; token 1 takes the last K.
std::vector<int64_t> Choices(int64_t tokens, int64_t k, int64_t total) {
  std::vector<int64_t> choices;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t first =
        t == 1 ? total - k : RandomInt(MakeKey(7, "choices"), static_cast<uint64_t>(t), total);
    for (int64_t j = 0; j < k; ++j) choices.push_back((first + j * (t == 1 ? 1 : 3)) % total);
  }
  return choices;
}

OpCase DealChosen(std::vector<int64_t> choices, int64_t k, std::vector<int64_t> starts) {
  const int64_t tokens = static_cast<int64_t>(choices.size()) / k;
  const auto owners = static_cast<int64_t>(starts.size()) - 1;
  const int64_t rows = tokens * std::min(k, owners);
  OpCase c("deal_tokens");
  c.Integers("experts", DType::kI32, {tokens, k}, std::move(choices));
  c.Fixed("weights", {tokens, k});
  c.NoteOf("sent", DType::kI32, {rows}, /*partial=*/true);
  c.NoteOf("sent_experts", DType::kI32, {rows, k}, /*partial=*/true);
  c.Note("sent_weights", {rows, k});
  c.args.back().partial = true;
  c.NoteOf("counts", DType::kI64, {owners, 2});
  c.Accurate({"weights", "sent_weights"});
  c.forward = [starts](OpRun& r) {
    r.kernels.deal_tokens(r.stream, r["experts"], r["weights"], starts, r["sent"],
                          r["sent_experts"], r["sent_weights"], r["counts"]);
  };
  return c;
}

OpCase Deal(int64_t tokens, int64_t k, std::vector<int64_t> starts) {
  return DealChosen(Choices(tokens, k, starts.back()), k, starts);
}

// `owners` that have `each` experts.
std::vector<int64_t> Starts(int64_t owners, int64_t each) {
  std::vector<int64_t> starts;
  for (int64_t d = 0; d <= owners; ++d) starts.push_back(d * each);
  return starts;
}

TEST(DealTest, AnswersAll) {
  CheckOp(Deal(1, 1, {0, 2}));
  CheckOp(Deal(5, 2, {0, 4, 7}));
  CheckOp(Deal(700, 3, {0, 14, 28, 41, 55}));
  CheckOp(Deal(33, 6, {0, 3, 6, 9, 12, 15, 18, 20, 22}));
  CheckOp(Deal(256, 6, {0, 28, 55}));
  CheckOp(Deal(1031, 5, {0, 55}));
  CheckOp(Deal(1533, 6, Starts(16, 4)));
  CheckOp(Deal(257, 19, Starts(3, 20)));
  CheckOp(Deal(300, 2, {0, 3, 3, 9, 9}));  // owners of nothing
  CheckOp(Deal(70, 3, Starts(kMostOwners, 1)));
}

// A GPU's blocks take several tiles each.
TEST(DealTest, ManyTokens) {
  CheckOpOnGpu(Deal(40001, 3, Starts(16, 5)));
  CheckOpOnGpu(Deal(270001, 2, {0, 28, 55}));
}

TEST(DealTest, OneOwnerOfAllThatIsChosen) {
  for (const int64_t first : {0, 4, 8}) {
    std::vector<int64_t> choices;
    for (int64_t t = 0; t < 519; ++t)
      for (int64_t j = 0; j < 3; ++j) choices.push_back(first + (t + j) % 4);
    CheckOp(DealChosen(choices, 3, Starts(3, 4)));
  }
}

TEST(DealTest, NoTokensIsLegal) {
  Allocator allocator{Device{}};
  Stream on_cpu{Device{}, allocator};
  Stream& stream = TestingGpu() ? GpuStream() : on_cpu;
  const Kernels& kernels = TestingGpu() ? *GpuKernels() : CpuKernels();
  const auto empty = [&](DType dtype, Shape shape) { return Tensor::Empty(stream, dtype, shape); };
  Tensor sent = empty(DType::kI32, {0}), experts = empty(DType::kI32, {0, 2});
  Tensor weights = empty(DType::kF32, {0, 2});
  Tensor counts = empty(DType::kI64, {2, 2});
  const std::vector<int64_t> starts = {0, 3, 5};
  kernels.deal_tokens(stream, experts, weights, starts, sent, experts, weights, counts);
  EXPECT_EQ(Values(counts), (std::vector<double>{0, 0, 0, 0}));
}

// Two owners of two experts: by owner, rising in tokens, once each.
TEST(DealTest, ATokenGoesOnceToEachOwner) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  int32_t chosen[] = {0, 1, 3, 0, 2, 3};
  float weight[] = {1, 2, 3, 4, 5, 6};
  Tensor sent = Tensor::Empty(stream, DType::kI32, {6});
  Tensor experts = Tensor::Empty(stream, DType::kI32, {6, 2});
  Tensor weights = Tensor::Empty(stream, DType::kF32, {6, 2});
  Tensor counts = Tensor::Empty(stream, DType::kI64, {2, 2});
  CpuKernels().deal_tokens(stream, Tensor::Wrap(chosen, DType::kI32, {3, 2}),
                           Tensor::Wrap(weight, DType::kF32, {3, 2}), std::vector<int64_t>{0, 2, 4},
                           sent, experts, weights, counts);
  EXPECT_EQ(Values(counts), (std::vector<double>{2, 3, 2, 3}));
  EXPECT_EQ(Values(sent.Rows(0, 4)), (std::vector<double>{0, 1, 1, 2}));
  EXPECT_EQ(Values(experts.Rows(0, 4)), (std::vector<double>{0, 1, -1, 0, 1, -1, 0, 1}));
  EXPECT_EQ(Values(weights.Rows(0, 4)), (std::vector<double>{1, 2, 0, 4, 3, 0, 5, 6}));
}

}  // namespace
}  // namespace mneme::test
