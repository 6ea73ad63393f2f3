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

OpCase Deal(int64_t tokens, int64_t k, std::vector<int64_t> starts) {
  const auto owners = static_cast<int64_t>(starts.size()) - 1;
  const int64_t rows = tokens * std::min(k, owners);
  OpCase c("deal_tokens");
  c.Integers("experts", DType::kI32, {tokens, k}, Choices(tokens, k, starts.back()));
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

TEST(DealTest, AnswersAll) {
  CheckOp(Deal(1, 1, {0, 2}));
  CheckOp(Deal(5, 2, {0, 4, 7}));
  CheckOp(Deal(700, 3, {0, 14, 28, 41, 55}));
  CheckOp(Deal(33, 6, {0, 3, 6, 9, 12, 15, 18, 20, 22}));
}

TEST(DealTest, NoTokensIsLegal) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  const auto empty = [&](DType dtype, Shape shape) { return Tensor::Empty(stream, dtype, shape); };
  Tensor sent = empty(DType::kI32, {0}), experts = empty(DType::kI32, {0, 2});
  Tensor weights = empty(DType::kF32, {0, 2});
  Tensor counts = empty(DType::kI64, {2, 2});
  const std::vector<int64_t> starts = {0, 3, 5};
  CpuKernels().deal_tokens(stream, experts, weights, starts, sent, experts, weights, counts);
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
