// Memory, copies and recorded work of the GPU, below the ops. Only where the GPU is asked.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/core/graph.h"
#include "kernels/core/side.h"
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

// Work on the side sees what the stream had done before it, the stream what was done there once it
// has joined; both come from one pool, neither waits otherwise. In a recording too.
TEST_F(GpuCoreTest, TheSideAndItsStreamKeepOffEachOther) {
  const Kernels& k = *GpuKernels();
  constexpr int64_t kMany = 30'000'000;
  constexpr int kRounds = 40;
  Allocator pool(GpuStream().device());
  Stream stream(GpuStream().device(), pool);
  Tensor sum = Tensor::Zeros(stream, DType::kF32, {kMany});
  Tensor bad = Tensor::Zeros(stream, DType::kF32, {kMany});
  const auto work = [&] {
    k.fill(stream, 0.0, sum);
    for (int i = 0; i < kRounds; ++i) {
      Tensor lent = Tensor::Empty(stream, DType::kF32, {kMany});
      k.fill(stream, i, lent);
      Tensor made;
      SideJob job = SideJob::Run(stream, {lent}, [&](Stream& side) {
        Tensor scratch = Tensor::Empty(side, DType::kF32, {kMany});
        k.copy(side, lent, scratch);
        made = Tensor::Empty(side, DType::kF32, {kMany});
        k.copy(side, scratch, made);
      });
      lent = Tensor();
      for (int other = 0; other < 3; ++other) {  // would fall on what the side uses
        Tensor taken = Tensor::Empty(stream, DType::kF32, {kMany});
        k.fill(stream, -1e6, taken);
      }
      job.Join();
      k.add(stream, made, sum);
    }
  };
  const float want = kRounds * (kRounds - 1) / 2;
  const auto expect_sum = [&] {
    std::vector<float> got(kMany);
    Download(stream, sum, got.data(), sum.bytes());
    EXPECT_EQ(std::count(got.begin(), got.end(), want), kMany);
  };
  for (const bool overlap : {false, true, true}) {
    stream.side().SetOverlap(overlap);
    stream.side().StartClock();
    work();
    stream.side().StopClock();
    expect_sum();
    EXPECT_GT(stream.side().waited(), 0.0);
  }
  stream.side().StartClock();
  Graph graph = Graph::Record(stream, work);
  stream.side().StopClock();
  for (int i = 0; i < 2; ++i) {
    graph.Replay();
    expect_sum();
    EXPECT_GT(stream.side().waited(), 0.0);
  }
}

// A job in two halves: the second does not wait for what the stream was given in between, and falls
// on none of its memory.
TEST_F(GpuCoreTest, AJobInTwoHalvesKeepsOffItsStream) {
  const Kernels& k = *GpuKernels();
  constexpr int64_t kMany = 30'000'000;
  Allocator pool(GpuStream().device());
  Stream stream(GpuStream().device(), pool);
  Tensor lent = Tensor::Zeros(stream, DType::kF32, {kMany});
  for (int i = 0; i < 10; ++i) {
    k.fill(stream, i, lent);
    SideJob job = SideJob::Begin(stream, {lent}, [&](Stream& side) {
      Tensor scratch = Tensor::Empty(side, DType::kF32, {kMany});
      k.fill(side, 7.0, scratch);
    });
    Tensor kept = Tensor::Empty(stream, DType::kF32, {kMany});
    for (int other = 0; other < 4; ++other) {
      Tensor taken = Tensor::Empty(stream, DType::kF32, {kMany});
      k.fill(stream, other, taken);
      k.copy(stream, taken, kept);
    }
    Tensor made;
    job.Finish([&](Stream& side) {
      made = Tensor::Empty(side, DType::kF32, {kMany});
      k.copy(side, lent, made);
    });
    job.Join();
    k.add(stream, made, kept);
    std::vector<float> got(kMany);
    Download(stream, kept, got.data(), kept.bytes());
    ASSERT_EQ(std::count(got.begin(), got.end(), static_cast<float>(3 + i)), kMany);
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
