// How fast ranks on GPUs exchange: Comm::AllToAll, the dispatch of tokens to experts and the rows
// of a spread table, beside grouped ncclSend and ncclRecv of the same bytes. Bytes that leave a
// rank, over time of the slowest; medians of rounds taken in turn.
//
//   mpirun -n 4 build/tests/bench/exchange_bench [hidden experts top_k]
//   mpirun -n 4 build/tests/bench/exchange_bench rows
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/random.h"
#include "parallel/expert_exchange.h"
#include "tests/bench/gpu_ranks.h"

namespace mneme::bench {
namespace {

constexpr int kRounds = 7;

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
  const bool rows_only = argc > 1 && std::string(argv[1]) == "rows";
  Shapes shapes;
  if (argc > 1 && !rows_only) shapes.hidden = std::atoll(argv[1]);
  if (argc > 2) shapes.experts = std::atoll(argv[2]);
  if (argc > 3) shapes.top_k = std::atoll(argv[3]);
  Machine m{**world, {Device::Kind::kGpu, (*world)->rank()}};
  RawNccl raw(**world);
  for (const int64_t bytes : {int64_t{64} << 20, int64_t{1} << 30}) {
    if (rows_only) break;
    MeasureAllToAll(m, raw, bytes);
    MeasureDispatch(m, raw, shapes, bytes);
  }
  MeasureRows(m, raw);
  return 0;
}

}  // namespace
}  // namespace mneme::bench

int main(int argc, char** argv) { return mneme::bench::Run(argc, argv); }
