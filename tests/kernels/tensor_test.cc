#include "kernels/core/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <utility>
#include <vector>

#include "kernels/core/arrival.h"

namespace mneme::test {
namespace {

struct Room {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
};

Tensor Counting(Stream& stream, Shape shape) {
  Tensor t = Tensor::Empty(stream, DType::kF32, shape);
  std::iota(t.data<float>(), t.data<float>() + t.elements(), 0.0f);
  return t;
}

TEST(TensorTest, AnEmptyHandleIsNoTensor) {
  Room room;
  EXPECT_FALSE(Tensor().defined());
  EXPECT_TRUE(Tensor::Empty(room.stream, DType::kF32, {0, 3}).defined());
  EXPECT_EQ(Tensor::Empty(room.stream, DType::kF32, {0, 3}).elements(), 0);
}

TEST(TensorTest, ViewsShareMemoryAndKeepItAlive) {
  Room room;
  Tensor row;
  {
    Tensor t = Counting(room.stream, {3, 2, 2});
    row = t.Rows(1, 2);
    t.data<float>()[5] = 50;
  }
  EXPECT_GT(room.allocator.total().live, 0);
  EXPECT_EQ(row.shape(), (Shape{1, 2, 2}));
  EXPECT_EQ(row.data<float>()[0], 4);
  EXPECT_EQ(row.data<float>()[1], 50);
  row = Tensor();
  EXPECT_EQ(room.allocator.total().live, 0);
}

TEST(TensorTest, ReshapeAndFlatKeepTheOrder) {
  Room room;
  const Tensor t = Counting(room.stream, {2, 6});
  EXPECT_EQ(t.Reshape({3, 4}).Rows(2, 3).data<float>()[0], 8);
  const Tensor flat = t.Flat(5, 9);
  EXPECT_EQ(flat.shape(), (Shape{4}));
  EXPECT_EQ(flat.data<float>()[0], 5);
}

TEST(TensorTest, UploadAndDownloadMoveBytes) {
  Room room;
  Tensor t = Tensor::Empty(room.stream, DType::kI64, {3});
  const std::vector<int64_t> in = {int64_t{1} << 40, -2, 3};
  std::vector<int64_t> out(3);
  Upload(room.stream, in.data(), 24, t);
  Download(room.stream, t, out.data(), 24);
  EXPECT_EQ(in, out);
}

TEST(TensorDeathTest, BrokenPromisesEndTheProgram) {
  Room room;
  Tensor t = Counting(room.stream, {2, 3});
  EXPECT_DEATH(t.data<double>(), "f32 and f64");
  EXPECT_DEATH(t.Reshape({7}), "check failed");
  EXPECT_DEATH(t.Rows(1, 3), "check failed");
}

TEST(ArrivalTest, BringsTheNumbersOfItsTensor) {
  Room room;
  Tensor x = Tensor::Empty(room.stream, DType::kI64, {3});
  std::iota(x.data<int64_t>(), x.data<int64_t>() + 3, int64_t{1} << 40);
  const std::vector<int64_t> sent(x.data<int64_t>(), x.data<int64_t>() + 3);
  Arrival first(room.stream, x);
  const Arrival unread(room.stream, x);
  x.data<int64_t>()[0] = 0;
  Arrival moved = std::move(first);
  std::vector<int64_t> came(3);
  moved.Wait(absl::MakeSpan(came));
  EXPECT_EQ(came, sent);
}

TEST(ArrivalDeathTest, TakesAndGivesWhatItIsMadeFor) {
  Room room;
  const auto of = [&](DType dtype, int64_t n) { return Tensor::Zeros(room.stream, dtype, {n}); };
  const int64_t most = Driver::kMostSent / SizeOf(DType::kI64);
  EXPECT_DEATH(Arrival(room.stream, of(DType::kI64, 0)), "check failed");
  EXPECT_DEATH(Arrival(room.stream, of(DType::kI64, most + 1)), "check failed");
  EXPECT_DEATH(Arrival(room.stream, of(DType::kI32, 2)), "i32 and i64");
  Arrival counts(room.stream, of(DType::kI64, most));
  std::vector<int64_t> host(static_cast<size_t>(most));
  EXPECT_DEATH(counts.Wait(absl::MakeSpan(host).first(1)), "check failed");
  counts.Wait(absl::MakeSpan(host));
  EXPECT_DEATH(counts.Wait(absl::MakeSpan(host)), "check failed");
}

}  // namespace
}  // namespace mneme::test
