#include "kernels/ops/elementwise.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

constexpr int64_t kMany = 50021;  // more than one thread's share

TEST(ElementwiseTest, FillWritesEveryTypeWhole) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kU8, DType::kI32, DType::kI64}) {
    Allocator allocator{Device{}};
    Stream stream{Device{}, allocator};
    Guarded x(dtype, {7, 137});
    CpuKernels().fill(stream, 3, x.tensor());
    EXPECT_EQ(Values(x.tensor()), std::vector<double>(7 * 137, 3.0));
    EXPECT_TRUE(x.Intact());
  }
}

TEST(ElementwiseTest, CopyAnswersAll) {
  OpCase c("copy");
  c.Fixed("x", {kMany});
  c.Output("y", {kMany});
  c.forward = [](OpRun& r) {
    r.kernels.copy(r.stream, r["x"], r["y"]);
    EXPECT_EQ(Values(r["x"]), Values(r["y"]));
  };
  c.recordable = false;  // reads values
  CheckOp(c);
}

TEST(ElementwiseTest, AddAnswersAll) {
  OpCase c("add");
  c.Activation("x", {kMany});
  c.Sum("y", {kMany});
  c.forward = [](OpRun& r) { r.kernels.add(r.stream, r["x"], r["y"]); };
  c.backward = [](OpRun& r) { r.kernels.copy(r.stream, r["dy"], r["dx"]); };
  c.elements_checked = 5;
  CheckOp(c);
}

TEST(ElementwiseTest, ScaleMultipliesByANumberOnTheDevice) {
  OpCase c("scale");
  c.Activation("x", {kMany});
  c.Fixed("factor", {1}, [](int64_t) { return -2.5; });
  c.Output("y", {kMany});
  c.forward = [](OpRun& r) {
    r.kernels.copy(r.stream, r["x"], r["y"]);
    r.kernels.scale(r.stream, r["factor"], r["y"]);
  };
  c.backward = [](OpRun& r) {
    r.kernels.fill(r.stream, 0, r["dx"]);
    r.kernels.add(r.stream, r["dy"], r["dx"]);
    r.kernels.scale(r.stream, r["factor"], r["dx"]);
  };
  c.elements_checked = 5;
  CheckOp(c);
}

// Where activations are bf16: from it and to it.
TEST(ElementwiseTest, CastAnswersAll) {
  OpCase c("cast");
  c.Fixed("x", {kMany});
  c.Output("y", {kMany});
  c.forward = [](OpRun& r) { r.kernels.cast(r.stream, r["x"], r["y"]); };
  c.Accurate({"y"});
  CheckOp(c);
  c.accurate = {"x"};
  CheckOp(c);
}

TEST(ElementwiseTest, DenormalsAreFlushedOnEveryThread) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  const int threads = omp_get_max_threads();
  omp_set_num_threads(3);
  Tensor x = Tensor::Empty(stream, DType::kF32, {200'000});
  CpuKernels().fill(stream, 1e-30, x);
  float factor = 1e-10f;
  CpuKernels().scale(stream, Tensor::Wrap(&factor, DType::kF32, {1}), x);
  omp_set_num_threads(threads);
  EXPECT_EQ(Values(x), std::vector<double>(200'000, 0.0));
}

TEST(ElementwiseTest, CastRoundsToTheOtherType) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  double x[] = {1.0 / 3, -1e300, 0, 7};
  float y[4];
  double z[4];
  Tensor xs = Tensor::Wrap(x, DType::kF64, {4});
  Tensor ys = Tensor::Wrap(y, DType::kF32, {4});
  Tensor zs = Tensor::Wrap(z, DType::kF64, {4});
  CpuKernels().cast(stream, xs, ys);
  EXPECT_EQ(y[0], 1.0f / 3);
  EXPECT_EQ(y[1], -INFINITY);
  EXPECT_EQ(y[3], 7.0f);
  CpuKernels().cast(stream, ys, zs);
  EXPECT_EQ(z[0], static_cast<double>(1.0f / 3));
  CpuKernels().cast(stream, xs, zs);
  EXPECT_EQ(z[0], 1.0 / 3);
}

}  // namespace
}  // namespace mneme::test
