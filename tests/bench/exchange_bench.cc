// How fast ranks on GPUs exchange: Comm::AllToAll, the dispatch of tokens to experts, their way
// back and the rows of a spread table, over NCCL and over peer memory, beside grouped ncclSend and
// ncclRecv of the same bytes. Bytes that leave a rank, over time of the slowest; medians of rounds
// taken in turn. What a dispatch over peer memory consists of stands below it.
//
//   mpirun -n 4 build/tests/bench/exchange_bench [hidden experts top_k]
//   mpirun -n 4 build/tests/bench/exchange_bench rows
#include <algorithm>
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
constexpr int kBlocks = 16;  // parallel/peer_comm.cc

struct Rates {
  double mine = 0;
  double raw = 0;
};

using Call = std::function<void()>;

// Seconds of each, medians of rounds in turn.
std::vector<double> InTurn(Machine& m, int calls, const std::vector<Call>& ways) {
  std::vector<std::vector<double>> seconds(ways.size());
  for (const Call& way : ways) m.Time(2, way);
  for (int i = 0; i < kRounds; ++i)
    for (size_t w = 0; w < ways.size(); ++w) seconds[w].push_back(m.Time(calls, ways[w]));
  std::vector<double> medians;
  for (const std::vector<double>& of_way : seconds) medians.push_back(Median(of_way));
  return medians;
}

// Two ways of sending `bytes` from each rank, in turn.
Rates Compare(Machine& m, double bytes, int calls, const Call& mine, const Call& raw) {
  const std::vector<double> seconds = InTurn(m, calls, {mine, raw});
  return {bytes / seconds[0] / 1e9, bytes / seconds[1] / 1e9};
}

void Tell(World& world, const char* what, double bytes, const Rates& rates) {
  if (world.rank() != 0) return;
  std::printf("%-34s %8.1f MB: %7.1f GB/s, ncclSend/ncclRecv %7.1f GB/s, ratio %.3f\n", what,
              bytes / 1e6, rates.mine, rates.raw, rates.mine / rates.raw);
  std::fflush(stdout);
}

// The same sent over NCCL, over peer memory where there is any, and by grouped calls.
void TellBoth(Machine& m, const std::string& what, double bytes, int calls, const Call& nccl,
              const Call& peer, const Call& raw) {
  if (m.peers.expert->direct() == nullptr)
    return Tell(m.world, (what + ", NCCL").c_str(), bytes, Compare(m, bytes, calls, nccl, raw));
  const std::vector<double> seconds = InTurn(m, calls, {nccl, peer, raw});
  const auto rates = [&](size_t way) -> Rates {
    return {bytes / seconds[way] / 1e9, bytes / seconds[2] / 1e9};
  };
  Tell(m.world, (what + ", NCCL").c_str(), bytes, rates(0));
  Tell(m.world, (what + ", peer memory").c_str(), bytes, rates(1));
}

// How many multiprocessors it takes to fill the links.
void MeasureBlocks(Machine& m, double bytes, int calls, const Call& peer) {
  DirectExchange* const direct = m.peers.expert->direct();
  if (direct == nullptr) return;
  if (m.world.rank() == 0) std::printf("  multiprocessors: GB/s");
  for (const int blocks : {8, 12, 16, 20, 24, 32, 48, 64, 96, 128}) {
    direct->SetBlocks(blocks);
    const double rate = bytes / InTurn(m, calls, {peer})[0] / 1e9;
    if (m.world.rank() == 0) std::printf("  %d: %.1f", blocks, rate);
  }
  direct->SetBlocks(kBlocks);
  if (m.world.rank() == 0) std::printf("\n");
}

void MeasureAllToAll(Machine& m, RawNccl& raw, int64_t bytes) {
  const int64_t others = m.world.size() - 1;
  const int64_t part = bytes / others / 16 * 16;
  const Tensor in = m.Random(DType::kU8, {others * part, 1});
  Tensor out = Tensor::Empty(m.stream, DType::kU8, {others * part, 1});
  std::vector<int64_t> counts(static_cast<size_t>(m.world.size()), part);
  counts[static_cast<size_t>(m.world.rank())] = 0;
  const auto sent = static_cast<double>(others * part);
  const int calls = bytes > (1 << 28) ? 5 : 20;
  const auto over = [&](Mesh& mesh) -> Call {
    return [&] { mesh.expert->AllToAll(m.stream, in, counts, out, counts); };
  };
  TellBoth(m, "all_to_all", sent, calls, over(m.mesh), over(m.peers),
           [&] { raw.AllToAll(m.stream, in, out, part); });
  MeasureBlocks(m, sent, calls, over(m.peers));
}

struct Shapes {
  int64_t hidden = 2560;
  int64_t experts = 55;
  int64_t top_k = 6;
};

// The tokens of a rank and the experts that they have chosen.
struct Tokens {
  Tokens(Machine& m, const Shapes& shapes, int64_t tokens)
      : x(m.Random(DType::kBf16, {tokens, shapes.hidden})),
        experts(Tensor::Empty(m.stream, DType::kI32, {tokens, shapes.top_k})),
        weights(m.Random(DType::kF32, {tokens, shapes.top_k})) {
    std::vector<int32_t> chosen;
    const RandomKey key = MakeKey(static_cast<uint64_t>(m.world.rank()), "experts");
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t first = RandomInt(key, static_cast<uint64_t>(t), shapes.experts);
      for (int64_t k = 0; k < shapes.top_k; ++k)  // a stride that spreads them
        chosen.push_back(static_cast<int32_t>((first + k * (1 + t % 7) * 8 + k) % shapes.experts));
    }
    Upload(m.stream, chosen.data(), experts.bytes(), experts);
  }
  Tensor x, experts, weights;
};

// Of a dispatch over peer memory: the dealing, the flags of a call without rows, and all that is on
// the devices, to which only the hosts' part is missing.
void MeasureParts(Machine& m, const Shapes& shapes, const Tokens& tokens,
                  const RoutedTokens& routed, double sent) {
  DirectExchange* const direct = m.peers.expert->direct();
  if (direct == nullptr) return;
  const int64_t members = m.world.size(), k = shapes.top_k;
  const int64_t most = tokens.x.dim(0) * std::min(k, members);
  std::vector<int64_t> starts;
  for (int r = 0; r < members; ++r)
    starts.push_back(PartOf(shapes.experts, static_cast<int>(members), r).begin);
  starts.push_back(shapes.experts);
  const auto make = [&](DType dtype, Shape shape) {
    return Tensor::Empty(m.stream, dtype, shape, MemoryTag::kExchange);
  };
  Tensor told = make(DType::kI64, {2 * members + 1, 2});
  Tensor leaving = told.Rows(0, members);
  Tensor nothing = make(DType::kU8, {Comm::kLeastShared, 1}).Rows(0, 0);
  Tensor index = make(DType::kI32, {most});
  const Tensor in[] = {tokens.x, make(DType::kI32, {most, k}), make(DType::kF32, {most, k})};
  Tensor in_experts = in[1], in_weights = in[2];
  const int64_t room = routed.x.dim(0) + 1;
  Tensor out[] = {make(DType::kBf16, {room, shapes.hidden}), make(DType::kI32, {room + 4096, k}),
                  make(DType::kF32, {room + 4096, k})};
  const auto deal = [&] {
    GpuKernels()->deal_tokens(m.stream, tokens.experts, tokens.weights, starts, index, in_experts,
                              in_weights, leaving);
  };
  const auto flags = [&] {
    direct->Tell(m.stream, leaving, {&nothing, 1}, told);
    direct->PutTold(m.stream, in, index, absl::MakeSpan(out));
  };
  const auto rows = [&] {
    direct->Tell(m.stream, leaving, out, told);
    direct->PutTold(m.stream, in, index, absl::MakeSpan(out));
  };
  deal();
  const std::vector<double> seconds = InTurn(m, 5, {deal, flags, rows, [&] {
                                                      deal();
                                                      rows();
                                                    }});
  std::vector<int64_t> heard(static_cast<size_t>(told.elements()));
  Download(m.stream, told, heard.data(), told.bytes());
  CHECK_EQ(heard[static_cast<size_t>(4 * members)], int64_t{1});
  if (m.world.rank() == 0) {
    std::printf(
        "  deal %.1f us, flags %.1f us, flags and rows %.1f us (%.1f GB/s), all three %.1f us\n",
        seconds[0] * 1e6, seconds[1] * 1e6, seconds[2] * 1e6, sent / seconds[2] / 1e9,
        seconds[3] * 1e6);
    std::fflush(stdout);
  }
  MeasureBlocks(m, sent, 5, rows);
}

// Tokens to the ranks of their experts, with choice on the device, counts, permutation and
// transfer; and what experts made of them back, summed by token.
void MeasureDispatch(Machine& m, RawNccl& raw, const Shapes& shapes, int64_t bytes) {
  ExpertExchange over_nccl(*m.mesh.expert, *GpuKernels(), shapes.experts);
  ExpertExchange over_peers(*m.peers.expert, *GpuKernels(), shapes.experts);
  // As many tokens as send about `bytes`, by a trial.
  const auto send = [&](ExpertExchange& exchange, const Tokens& t) {
    return exchange.Dispatch(m.stream, t.x, t.experts, t.weights).Wait(m.stream);
  };
  const auto sent_by = [&](const Tokens& t) {
    const int64_t before = m.mesh.expert->bytes_sent();
    send(over_nccl, t);
    return static_cast<double>(m.world.Sum(m.mesh.expert->bytes_sent() - before)) / m.world.size();
  };
  constexpr int64_t kTrial = 1024;
  const double trial = sent_by(Tokens(m, shapes, kTrial));
  const auto n = static_cast<int64_t>(static_cast<double>(kTrial * bytes) / trial);
  const Tokens tokens(m, shapes, n);
  const double sent = sent_by(tokens);
  const int64_t part = static_cast<int64_t>(sent) / (m.world.size() - 1) / 16 * 16;
  const Tensor in = m.Random(DType::kU8, {part * (m.world.size() - 1), 1});
  Tensor out = Tensor::Empty(m.stream, DType::kU8, {part * (m.world.size() - 1), 1});
  const auto wire = [&] { raw.AllToAll(m.stream, in, out, part); };
  const std::string of = " of " + std::to_string(n) + " tokens";
  TellBoth(
      m, "dispatch" + of, sent, 5, [&] { send(over_nccl, tokens); },
      [&] { send(over_peers, tokens); }, wire);
  const RoutedTokens there = send(over_nccl, tokens), straight = send(over_peers, tokens);
  MeasureParts(m, shapes, tokens, straight, sent);
  const auto back = [&](ExpertExchange& exchange, const RoutedTokens& routed) -> Call {
    return [&] { exchange.Combine(m.stream, routed, routed.x, n).Wait(m.stream); };
  };
  TellBoth(m, "combine" + of, sent, 5, back(over_nccl, there), back(over_peers, straight), wire);
  Tensor rows = Tensor::Empty(m.stream, DType::kBf16, {there.sent.elements(), shapes.hidden});
  const auto rows_back = [&](Mesh& mesh, const RoutedTokens& routed) -> Call {
    return [&] { mesh.expert->AllToAll(m.stream, routed.x, routed.recv, rows, routed.send); };
  };
  TellBoth(m, "its rows alone", sent, 5, rows_back(m.mesh, there), rows_back(m.peers, straight),
           wire);
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
