// The harness must fail where it should: ops with one fault each, on the device that is asked.
#include "tests/op_case.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace mneme::test {
namespace {

// y = a constant, and whatever `fault` does then.
OpCase Constant(const std::function<void(OpRun&)>& fault) {
  OpCase c("faulty");
  c.Fixed("x", {64});
  c.Output("y", {64});
  c.forward = [fault](OpRun& r) {
    r.kernels.fill(r.stream, 2, r["y"]);
    fault(r);
  };
  return c;
}

// All that CheckOp complains about.
std::string Complaints(const OpCase& c) {
  testing::TestPartResultArray results;
  {
    const testing::ScopedFakeTestPartResultReporter reporter(
        testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    CheckOp(c);
  }
  std::string all;
  for (int i = 0; i < results.size(); ++i) all += results.GetTestPartResult(i).message();
  return all;
}

void ExpectFound(std::string_view words, const std::function<void(OpRun&)>& fault) {
  const std::string complaints = Complaints(Constant(fault));
  EXPECT_NE(complaints.find(words), std::string::npos) << words << " in: " << complaints;
}

TEST(OpCaseTest, ASoundOpPasses) {
  EXPECT_EQ(Complaints(Constant([](OpRun&) {})), "");
}

TEST(OpCaseTest, AnUnwrittenElementShows) {
  OpCase c = Constant([](OpRun&) {});
  c.forward = [](OpRun& r) {
    Tensor most = r["y"].Flat(0, 63);
    r.kernels.fill(r.stream, 2, most);
  };
  EXPECT_NE(Complaints(c).find("elements of y not written"), std::string::npos);
}

TEST(OpCaseTest, AWriteBesideAnOutputShows) {
  ExpectFound("wrote beside y", [](OpRun& r) {
    Tensor& y = r["y"];
    Tensor before =
        Tensor::Wrap(static_cast<char*>(y.raw()) - SizeOf(y.dtype()), y.dtype(), {1}, y.device());
    r.kernels.fill(r.stream, 2, before);
  });
}

TEST(OpCaseTest, AChangedInputShows) {
  ExpectFound("changed x", [](OpRun& r) { r.kernels.fill(r.stream, 2, r["x"]); });
}

TEST(OpCaseTest, AnotherResultTheSecondTimeShows) {
  int runs = 0;
  ExpectFound("other bits in y", [&](OpRun& r) { r.kernels.fill(r.stream, ++runs, r["y"]); });
}

TEST(OpCaseTest, AResultThatTheReferenceDoesNotGiveShows) {
  ExpectFound("faulty: y ", [](OpRun& r) {
    if (r.real == DType::kF64) return;
    Tensor one = r["y"].Flat(3, 4);
    r.kernels.fill(r.stream, 2.25, one);
  });
}

TEST(OpCaseTest, AGradientThatIsNotOneShows) {
  if (TestingGpu()) GTEST_SKIP() << "gradients are the CPU's question";
  OpCase c = Constant([](OpRun&) {});
  c.args[0].role = OpArg::Role::kActivation;
  c.backward = [](OpRun& r) { r.kernels.fill(r.stream, 1, r["dx"]); };
  EXPECT_NE(Complaints(c).find("dx"), std::string::npos);
}

}  // namespace
}  // namespace mneme::test
