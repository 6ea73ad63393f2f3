#include "tests/bench/gpu_ranks.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include "kernels/core/native_queue.h"
#include "kernels/core/random.h"

namespace mneme::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBusyBytes = int64_t{512} << 20;
constexpr int kMeetings = 3;

void Check(ncclResult_t result) {
  if (result != ncclSuccess) Fatal(__FILE__, __LINE__, ncclGetErrorString(result));
}

constexpr int64_t kPoolBytes = int64_t{40} << 30;

}  // namespace

Machine::Machine(World& of, Device mine) : world(of), device(mine) {
  allocator.Reserve(kPoolBytes);
  const std::string why = ShareMemory(peers, stream);
  if (world.rank() != 0) return;
  std::printf("between GPUs: %s %s\n", peers.expert->way().c_str(), why.c_str());
}

Layout Machine::LayoutOf(bool peer) const {
  Layout layout{world.size(), world.size(), world.size()};
  layout.peer = peer;
  return layout;
}

Tensor Machine::Random(DType dtype, Shape shape) {
  Tensor x = Tensor::Empty(stream, dtype, shape);
  std::vector<uint64_t> host(static_cast<size_t>(x.bytes() / 8 + 1));
  const RandomKey key = MakeKey(static_cast<uint64_t>(world.rank()), "bytes");
  // Patterns of small numbers in every format: no NaN.
  for (size_t i = 0; i < host.size(); ++i) {
    const auto draw = static_cast<uint64_t>(RandomInt(key, i, 1 << 30));
    host[i] = (draw | draw << 32) & 0x3fff3fff3fff3fffu;
  }
  Upload(stream, host.data(), x.bytes(), x);
  return x;
}

double Machine::Slowest(double seconds) {
  return static_cast<double>(world.Max(static_cast<int64_t>(seconds * 1e9))) / 1e9;
}

double Machine::Time(int calls, const std::function<void()>& call) {
  stream.Synchronize();
  world.Barrier();
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < calls; ++i) call();
  stream.Synchronize();
  return Slowest(std::chrono::duration<double>(Clock::now() - begin).count() / calls);
}

double Machine::Latency(const std::function<void()>& call) {
  if (!busy_.defined()) {
    busy_ = Tensor::Zeros(stream, DType::kF32, {kBusyBytes / 4});
    busier_ = Tensor::Zeros(stream, DType::kF32, {kBusyBytes / 4});
    one_ = Tensor::Zeros(stream, DType::kF32, {1});
  }
  stream.side().stream().Synchronize();
  stream.Synchronize();
  world.Barrier();
  GpuKernels()->copy(stream, busy_, busier_);
  for (int i = 0; i < kMeetings; ++i) mesh.world->AllReduce(stream, one_, Reduce::kSum);
  const Driver& driver = stream.driver();
  stamps_[0] = driver.stamp(stream.queue(), stamps_[0]);
  call();
  stamps_[1] = driver.stamp(stream.queue(), stamps_[1]);
  stream.Synchronize();
  return Slowest(driver.seconds(stamps_[0], stamps_[1]));
}

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<int64_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

RawNccl::RawNccl(World& world) : size_(world.size()), rank_(world.rank()) {
  ncclUniqueId id = {};
  if (rank_ == 0) Check(ncclGetUniqueId(&id));
  const std::string bytes = world.Broadcast(std::string(id.internal, sizeof id.internal));
  std::copy(bytes.begin(), bytes.end(), id.internal);
  Check(ncclCommInitRank(&comm_, size_, id, rank_));
}

RawNccl::~RawNccl() { Check(ncclCommDestroy(comm_)); }

void RawNccl::AllToAll(Stream& stream, const Tensor& in, Tensor& out, int64_t part_bytes) {
  const auto queue = static_cast<cudaStream_t>(NativeQueue(stream));
  const auto bytes = static_cast<size_t>(part_bytes);
  Check(ncclGroupStart());
  for (int r = 0, part = 0; r < size_; ++r) {
    if (r == rank_) continue;
    Check(ncclSend(static_cast<const char*>(in.raw()) + part * part_bytes, bytes, ncclInt8, r,
                   comm_, queue));
    Check(ncclRecv(static_cast<char*>(out.raw()) + part * part_bytes, bytes, ncclInt8, r, comm_,
                   queue));
    ++part;
  }
  Check(ncclGroupEnd());
}

}  // namespace mneme::bench
