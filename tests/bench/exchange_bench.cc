// How fast ranks on GPUs exchange: Comm::AllToAll, the dispatch of tokens to experts and the rows
// of a spread table, beside grouped ncclSend and ncclRecv of the same bytes. Bytes that leave a
// rank, over time of the slowest; medians of rounds taken in turn.
//
//   mpirun -n 4 build/tests/bench/exchange_bench [hidden experts top_k]
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/native_queue.h"
#include "kernels/core/random.h"
#include "kernels/kernels.h"
#include "parallel/expert_exchange.h"
#include "parallel/mesh.h"
#include "parallel/row_exchange.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 7;

void Check(ncclResult_t result) {
  if (result != ncclSuccess) Fatal(__FILE__, __LINE__, ncclGetErrorString(result));
}

struct Machine {
  World& world;
  Device device;
  Allocator allocator{device};
  Stream stream{device, allocator};
  Mesh mesh = MakeMesh(world, {world.size(), world.size(), world.size()}, device);

  // Bytes that look like nothing.
  Tensor Random(DType dtype, Shape shape) {
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
  // Seconds of one call on the slowest rank, of `calls` in a row.
  double Time(int calls, const std::function<void()>& call) {
    stream.Synchronize();
    world.Barrier();
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    stream.Synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / calls;
    return static_cast<double>(world.Max(static_cast<int64_t>(seconds * 1e9))) / 1e9;
  }
};

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<int64_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

class RawNccl {
 public:
  explicit RawNccl(World& world) : size_(world.size()), rank_(world.rank()) {
    ncclUniqueId id = {};
    if (rank_ == 0) Check(ncclGetUniqueId(&id));
    const std::string bytes = world.Broadcast(std::string(id.internal, sizeof id.internal));
    std::copy(bytes.begin(), bytes.end(), id.internal);
    Check(ncclCommInitRank(&comm_, size_, id, rank_));
  }
  ~RawNccl() { Check(ncclCommDestroy(comm_)); }
  RawNccl(const RawNccl&) = delete;
  RawNccl& operator=(const RawNccl&) = delete;

  void AllToAll(Stream& stream, const Tensor& in, Tensor& out, int64_t part_bytes) {
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

 private:
  int size_, rank_;
  ncclComm_t comm_ = nullptr;
};

struct Rates {
  double mine = 0;
  double raw = 0;
};

// Two ways of sending `bytes` from each rank, in turn.
Rates Compare(Machine& m, double bytes, int calls, const std::function<void()>& mine,
              const std::function<void()>& raw) {
  std::vector<double> seconds[2];
  m.Time(2, mine);
  m.Time(2, raw);
  for (int i = 0; i < kRounds; ++i) {
    seconds[0].push_back(m.Time(calls, mine));
    seconds[1].push_back(m.Time(calls, raw));
  }
  return {bytes / Median(seconds[0]) / 1e9, bytes / Median(seconds[1]) / 1e9};
}

void Tell(World& world, const char* what, double bytes, const Rates& rates) {
  if (world.rank() != 0) return;
  std::printf("%-34s %8.1f MB: %7.1f GB/s, ncclSend/ncclRecv %7.1f GB/s, ratio %.3f\n", what,
              bytes / 1e6, rates.mine, rates.raw, rates.mine / rates.raw);
  std::fflush(stdout);
}

void MeasureAllToAll(Machine& m, RawNccl& raw, int64_t bytes) {
  const int64_t others = m.world.size() - 1;
  const int64_t part = bytes / others / 16 * 16;
  const Tensor in = m.Random(DType::kU8, {others * part, 1});
  Tensor out = Tensor::Empty(m.stream, DType::kU8, {others * part, 1});
  std::vector<int64_t> counts(static_cast<size_t>(m.world.size()), part);
  counts[static_cast<size_t>(m.world.rank())] = 0;
  const auto sent = static_cast<double>(others * part);
  const Rates rates = Compare(
      m, sent, bytes > (1 << 28) ? 5 : 20,
      [&] { m.mesh.world->AllToAll(m.stream, in, counts, out, counts); },
      [&] { raw.AllToAll(m.stream, in, out, part); });
  Tell(m.world, "all_to_all", sent, rates);
}

struct Shapes {
  int64_t hidden = 2560;
  int64_t experts = 55;
  int64_t top_k = 6;
};

// Tokens to the ranks of their experts: choice on the device, counts, permutation and transfer.
void MeasureDispatch(Machine& m, RawNccl& raw, const Shapes& shapes, int64_t bytes) {
  ExpertExchange exchange(*m.mesh.expert, *GpuKernels(), shapes.experts);
  // As many tokens as send about `bytes`, by a trial.
  int64_t tokens = 1024;
  double sent = 0;
  for (int trial = 0; trial < 2; ++trial) {
    const Tensor x = m.Random(DType::kBf16, {tokens, shapes.hidden});
    std::vector<int32_t> chosen;
    const RandomKey key = MakeKey(static_cast<uint64_t>(m.world.rank()), "experts");
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t first = RandomInt(key, static_cast<uint64_t>(t), shapes.experts);
      for (int64_t k = 0; k < shapes.top_k; ++k) {  // a stride that spreads them
        chosen.push_back(static_cast<int32_t>((first + k * (1 + t % 7) * 8 + k) % shapes.experts));
      }
    }
    Tensor experts = Tensor::Empty(m.stream, DType::kI32, {tokens, shapes.top_k});
    Upload(m.stream, chosen.data(), experts.bytes(), experts);
    const Tensor weights = m.Random(DType::kF32, {tokens, shapes.top_k});
    const auto dispatch = [&] { exchange.Dispatch(m.stream, x, experts, weights).Wait(m.stream); };
    const int64_t before = m.mesh.expert->bytes_sent();
    dispatch();
    sent = static_cast<double>(m.world.Sum(m.mesh.expert->bytes_sent() - before)) / m.world.size();
    if (trial == 0) {
      tokens = static_cast<int64_t>(static_cast<double>(tokens * bytes) / sent);
      continue;
    }
    const int64_t part = static_cast<int64_t>(sent) / (m.world.size() - 1) / 16 * 16;
    const Tensor in = m.Random(DType::kU8, {part * (m.world.size() - 1), 1});
    Tensor out = Tensor::Empty(m.stream, DType::kU8, {part * (m.world.size() - 1), 1});
    const Rates rates =
        Compare(m, sent, 5, dispatch, [&] { raw.AllToAll(m.stream, in, out, part); });
    Tell(m.world, ("dispatch of " + std::to_string(tokens) + " tokens").c_str(), sent, rates);
  }
}

// The texts of micro-batches, and a table as large as one of Engram-27B's.
struct Table {
  static constexpr int64_t kTokens = 8192;  // of a micro-batch
  static constexpr int64_t kLength = 4096;
  static constexpr int64_t kVocabulary = 129280;
  static constexpr int64_t kHeads = 8;  // for each of two orders
  static constexpr int64_t kHeadRows = 2'262'400;
  static constexpr int64_t kWidth = 80;
  static constexpr int kTexts = 4;

  explicit Table(Machine& m) {
    hash.orders = {2, 3};
    hash.heads = kHeads;
    hash.multipliers = {0x3243f6a8885a309, 0x13198a2e0370735, 0x243f6a8885a308d};
    for (int64_t i = 0; i < 2 * kHeads; ++i) {
      hash.primes.push_back(kHeadRows - 2 * i - 1);
      hash.offsets.push_back(i * kHeadRows);
    }
    std::vector<int32_t> same(kVocabulary), zeros(kTokens, 0);
    for (size_t v = 0; v < same.size(); ++v) same[v] = static_cast<int32_t>(v);
    canonical = Put(m, same);
    doc_start = Put(m, zeros);
    const RandomKey key = MakeKey(static_cast<uint64_t>(m.world.rank()), "text");
    for (int b = 0; b < kTexts; ++b) {
      std::vector<int32_t> text;
      for (int64_t t = 0; t < kTokens; ++t) {  // few words often, most of them rarely: u⁴
        const double u = RandomUniform(key, static_cast<uint64_t>(b * kTokens + t));
        text.push_back(static_cast<int32_t>(u * u * u * u * kVocabulary));
      }
      texts.push_back(Put(m, text));
    }
    RowTableSpec spec;
    spec.name = "table";
    spec.rows = 2 * kHeads * kHeadRows;
    spec.width = kWidth;
    spec.init = {MakeKey(1, spec.name), 0.02};
    rows = *MakeRowExchange(m.stream, *GpuKernels(), m.mesh, spec, /*resident=*/true);
  }
  RowQuery Query(int i) const {
    return {hash, texts[static_cast<size_t>(i % kTexts)], canonical, kLength, doc_start};
  }
  static Tensor Put(Machine& m, const std::vector<int32_t>& host) {
    Tensor x = Tensor::Empty(m.stream, DType::kI32, {static_cast<int64_t>(host.size())});
    Upload(m.stream, host.data(), x.bytes(), x);
    return x;
  }

  NgramHash hash;
  Tensor canonical, doc_start;
  std::vector<Tensor> texts;
  std::unique_ptr<RowExchange> rows;
};

// From tokens to rows in bf16: asked for when they are needed, and announced a micro-batch ahead.
void MeasureRows(Machine& m, RawNccl& raw) {
  Table table(m);
  RowExchange& rows = *table.rows;
  int asked = 0;
  const auto fetch = [&] {
    rows.Fetch(m.stream, table.Query(asked++), DType::kBf16).Wait(m.stream);
  };
  fetch();
  rows.ResetTraffic();
  fetch();
  const RowTraffic traffic = rows.traffic();
  const auto sent =
      static_cast<double>(m.world.Sum(traffic.bytes)) / static_cast<double>(m.world.size());
  const int64_t part = static_cast<int64_t>(sent) / (m.world.size() - 1) / 16 * 16;
  const Tensor in = m.Random(DType::kU8, {part * (m.world.size() - 1), 1});
  Tensor out = Tensor::Empty(m.stream, DType::kU8, {part * (m.world.size() - 1), 1});
  const auto wire = [&] { raw.AllToAll(m.stream, in, out, part); };
  const auto tell = [&](const char* what, const Rates& rates) {
    Tell(m.world, what, sent, rates);
    if (m.world.rank() != 0) return;
    std::printf("  %.3f ms, wire %.3f ms; %lld requests, %lld distinct, %lld of them elsewhere\n",
                sent / rates.mine / 1e6, sent / rates.raw / 1e6,
                static_cast<long long>(traffic.requested), static_cast<long long>(traffic.unique),
                static_cast<long long>(traffic.remote));
  };
  tell("rows", Compare(m, sent, 20, fetch, wire));
  rows.Announce(m.stream, table.Query(asked));
  const auto ahead = [&] {
    rows.Announce(m.stream, table.Query(asked + 1));
    fetch();
  };
  tell("rows, announced", Compare(m, sent, 20, ahead, wire));
  fetch();
}

int Run(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<World>> world = MpiWorld::Start(&argc, &argv);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", std::string(world.status().message()).c_str());
    return 2;
  }
  std::string why;
  const int count = GpuDriver()->count(&why);
  if (count < (*world)->size() || (*world)->size() < 2) {
    std::fprintf(stderr, "%d GPUs for %d ranks: at least two ranks, each with its own\n", count,
                 (*world)->size());
    return 2;
  }
  Shapes shapes;
  if (argc > 1) shapes.hidden = std::atoll(argv[1]);
  if (argc > 2) shapes.experts = std::atoll(argv[2]);
  if (argc > 3) shapes.top_k = std::atoll(argv[3]);
  Machine m{**world, {Device::Kind::kGpu, (*world)->rank()}};
  RawNccl raw(**world);
  for (const int64_t bytes : {int64_t{64} << 20, int64_t{1} << 30}) {
    MeasureAllToAll(m, raw, bytes);
    MeasureDispatch(m, raw, shapes, bytes);
  }
  MeasureRows(m, raw);
  return 0;
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) { return mneme::Run(argc, argv); }
