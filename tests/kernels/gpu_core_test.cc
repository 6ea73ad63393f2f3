// Memory, copies and recorded work of the GPU, below the ops. Only where the GPU is asked.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/core/graph.h"
#include "kernels/kernels.h"
#include "tests/device_under_test.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

class GpuCoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestingGpu()) GTEST_SKIP() << "asks the GPU alone";
  }
};

TEST_F(GpuCoreTest, BytesGoThereAndBack) {
  Stream& stream = GpuStream();
  for (const int64_t count : {1, 7, 100'003}) {
    std::vector<int64_t> in(static_cast<size_t>(count));
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int64_t>(i * i) - 5;
    const std::vector<int64_t> wanted = in;
    Tensor t = Tensor::Empty(stream, DType::kI64, {count});
    Upload(stream, in.data(), t.bytes(), t);
    in.assign(in.size(), 0);  // the host's memory may be reused at once
    std::vector<int64_t> out(in.size());
    Download(stream, t, out.data(), t.bytes());
    EXPECT_EQ(out, wanted);
  }
  EXPECT_EQ(Values(Tensor::Zeros(stream, DType::kF32, {1001})), std::vector<double>(1001, 0.0));
}

TEST_F(GpuCoreTest, ThePoolServesTheSameRequestsWithTheSameAddresses) {
  Stream& stream = GpuStream();
  Allocator pool(stream.device());
  Stream other(stream.device(), pool);
  const auto requests = [&] {
    std::vector<const void*> addresses;
    const Tensor kept = Tensor::Empty(other, DType::kBf16, {3, 1000});
    for (const int64_t n : {1, 70'000, 1, 4'000'000}) {
      Tensor t = Tensor::Zeros(other, DType::kF32, {n});
      EXPECT_EQ(reinterpret_cast<uintptr_t>(t.raw()) % 256, 0u);
      addresses.push_back(t.raw());
    }
    return addresses;
  };
  const std::vector<const void*> first = requests();
  const int64_t allocations = pool.driver_allocations();
  EXPECT_EQ(requests(), first);
  EXPECT_EQ(pool.driver_allocations(), allocations);
}

// What a record reads is what stands there when it is replayed.
TEST_F(GpuCoreTest, ARecordRunsAgainOnNewNumbers) {
  Stream& stream = GpuStream();
  const Kernels& k = *GpuKernels();
  Tensor x = Tensor::Empty(stream, DType::kF32, {1000});
  Tensor y = Tensor::Zeros(stream, DType::kF32, {1000});
  const auto work = [&] {
    k.add(stream, x, y);
    k.add(stream, y, x);
  };
  Graph graph = Graph::Record(stream, work);
  EXPECT_EQ(Values(y), std::vector<double>(1000, 0.0)) << "recording runs nothing";
  for (const double start : {1.0, 3.0}) {
    k.fill(stream, start, x);
    k.fill(stream, 0.5, y);
    graph.Replay();
    EXPECT_EQ(Values(y), std::vector<double>(1000, start + 0.5));
    EXPECT_EQ(Values(x), std::vector<double>(1000, 2 * start + 0.5));
  }
}

TEST_F(GpuCoreTest, FillWritesEveryTypeWhole) {
  Stream& stream = GpuStream();
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kBf16, DType::kU8, DType::kI32, DType::kI64}) {
    Guarded x(stream, dtype, {7, 137}, SizeOf(dtype));
    GpuKernels()->fill(stream, 3, x.tensor());
    EXPECT_EQ(Values(x.tensor()), std::vector<double>(7 * 137, 3.0)) << Name(dtype);
    EXPECT_TRUE(x.Intact()) << Name(dtype);
  }
}

}  // namespace
}  // namespace mneme::test
