// Exchanges of GPUs that write into each other's memory: every byte at its place, whatever the
// counts, and what NCCL brings to the bit.
#include <gtest/gtest.h>

#include <numeric>

#include "kernels/core/graph.h"
#include "kernels/core/random.h"
#include "parallel/expert_exchange.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

constexpr const char* kNoPeers = "no rank has a GPU of its own";

// Rows from one member to another, now and then none; the larger the call, the more.
int64_t RowsOf(int from, int to, int call) {
  return (from + 2 * to + call) % 4 == 0 ? 0 : 1 + (from * 7 + to * 3 + call) % 11 * (1 << call);
}
uint8_t ByteOf(int from, int to, int64_t i) {
  return static_cast<uint8_t>(from * 131 + to * 57 + i * 7 + i / 251);
}

// Rows of all members for one, or of one for all, byte by byte.
std::vector<uint8_t> Bytes(const Comm& comm, bool leaving, int call, int64_t width) {
  std::vector<uint8_t> bytes;
  for (int r = 0; r < comm.size(); ++r) {
    const int from = leaving ? comm.rank() : r;
    const int to = leaving ? r : comm.rank();
    for (int64_t i = 0; i < RowsOf(from, to, call) * width; ++i)
      bytes.push_back(ByteOf(from, to, i + width));
  }
  return bytes;
}

// Calls of several tensors of widths that stand on no boundary, and of sizes that fill few blocks,
// and several pieces of a bounce buffer; queued one behind another.
void ExpectAllBytes(Comm& comm, TestStream& t) {
  const std::vector<std::vector<int64_t>> widths = {{1}, {3, 24}, {80, 4, 12}, {5120, 24, 24}};
  struct Call {
    std::vector<Tensor> in, out;
    std::vector<std::vector<uint8_t>> want;
  };
  std::vector<Call> calls;
  for (int call = 0; call < 8; ++call) {
    Call& c = calls.emplace_back();
    std::vector<int64_t> send, recv;
    for (int r = 0; r < comm.size(); ++r) {
      send.push_back(RowsOf(comm.rank(), r, call));
      recv.push_back(RowsOf(r, comm.rank(), call));
    }
    const auto total = [](const std::vector<int64_t>& n) {
      return std::accumulate(n.begin(), n.end(), int64_t{0});
    };
    for (const int64_t width : widths[static_cast<size_t>(call) % widths.size()]) {
      const std::vector<uint8_t> bytes = Bytes(comm, true, call, width);
      c.in.push_back(Tensor::Empty(t.stream, DType::kU8, {total(send), width}));
      Upload(t.stream, bytes.data(), c.in.back().bytes(), c.in.back());
      c.out.push_back(Tensor::Zeros(t.stream, DType::kU8, {total(recv), width}));
      c.want.push_back(Bytes(comm, false, call, width));
    }
    comm.AllToAllOf(t.stream, c.in, send, absl::MakeSpan(c.out), recv);
  }
  for (const Call& c : calls) {
    for (size_t i = 0; i < c.out.size(); ++i) {
      std::vector<uint8_t> got(c.want[i].size());
      ASSERT_EQ(c.out[i].bytes(), static_cast<int64_t>(got.size()));
      if (!got.empty()) Download(t.stream, c.out[i], got.data(), c.out[i].bytes());
      EXPECT_EQ(got, c.want[i]) << &c - calls.data() << " " << i;
    }
  }
}

TEST(Peer, MovesEveryByte) {
  if (!OnPeerGroups(ExpectAllBytes)) GTEST_SKIP() << kNoPeers;
}

constexpr int64_t kExperts = 11, kChosen = 3, kWidth = 136;

struct Tokens {
  // spread: how many of the experts they choose among.
  Tokens(TestStream& t, int rank, int64_t n, int64_t spread) {
    const RandomKey key = MakeKey(static_cast<uint64_t>(rank), "tokens");
    for (int64_t i = 0; i < n * kWidth; ++i)
      values.push_back(static_cast<float>(RandomInt(key, static_cast<uint64_t>(i), 1000)));
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<uint64_t>((int64_t{1} << 40) + i);
      const int64_t first = RandomInt(key, at, spread);
      for (int64_t k = 0; k < kChosen; ++k) {
        chosen.push_back(static_cast<int32_t>((first + k * (1 + i % 2)) % spread));
        shares.push_back(static_cast<float>(i % 13 + k));
      }
    }
    x = std::make_unique<Placed<float>>(t, values, Shape{n, kWidth});
    experts = std::make_unique<Placed<int32_t>>(t, chosen, Shape{n, kChosen});
    weights = std::make_unique<Placed<float>>(t, shares, Shape{n, kChosen});
  }
  std::vector<float> values, shares;
  std::vector<int32_t> chosen;
  std::unique_ptr<Placed<float>> x, weights;
  std::unique_ptr<Placed<int32_t>> experts;
};

std::vector<uint8_t> ToHost(TestStream& t, const Tensor& x) {
  std::vector<uint8_t> host(static_cast<size_t>(x.bytes()));
  if (!host.empty()) Download(t.stream, x, host.data(), x.bytes());
  return host;
}

// Few tokens that go to all, then many that go to one rank: more than there is room for.
void ExpectWhatNcclBrings(Comm& comm, TestStream& t) {
  const std::unique_ptr<Comm> plain = comm.Split(0, comm.rank(), Axis::kOther);  // shares nothing
  ASSERT_EQ(plain->direct(), nullptr);
  ExpertExchange straight(comm, *GpuKernels(), kExperts), nccl(*plain, *GpuKernels(), kExperts);
  int call = 0;
  for (const auto& [n, spread] : std::vector<std::pair<int64_t, int64_t>>{
           {2000, kExperts}, {2000, kExperts}, {300, kExperts}, {3000, 3}, {3000, 3}, {0, 3}}) {
    const int64_t mine = comm.rank() == 1 ? n / 2 : n;
    const Tokens tokens(t, comm.rank(), mine, spread);
    std::vector<std::vector<uint8_t>> brought[2];
    for (ExpertExchange* exchange : {&straight, &nccl}) {
      const RoutedTokens routed =
          exchange
              ->Dispatch(t.stream, tokens.x->tensor, tokens.experts->tensor, tokens.weights->tensor)
              .Wait(t.stream);
      const Tensor y = exchange->Combine(t.stream, routed, routed.x, mine).Wait(t.stream);
      const Tensor again = exchange->SendAgain(t.stream, routed, tokens.x->tensor).Wait(t.stream);
      const auto grad =
          exchange->DispatchGrad(t.stream, routed, routed.x, routed.weights, tokens.experts->tensor)
              .Wait(t.stream);
      auto& all = brought[exchange == &nccl ? 1 : 0];
      for (const Tensor& x : {routed.x, routed.experts, routed.weights, routed.sent, y, again,
                              grad.dx, grad.dweights}) {
        all.push_back(ToHost(t, x));
      }
    }
    for (size_t i = 0; i < brought[0].size(); ++i)
      EXPECT_EQ(brought[0][i], brought[1][i]) << "call " << call << " tensor " << i;
    ++call;
  }
  if (comm.direct() != nullptr) {
    EXPECT_GT(comm.bytes_sent(), 0);
  }
  t.stream.Synchronize();
}

TEST(Peer, DispatchAndItsWayBackHaveTheBitsOfNccl) {
  if (!OnPeerGroups(ExpectWhatNcclBrings)) GTEST_SKIP() << kNoPeers;
}

// Replayed calls move what stands there then.
void ExpectReplays(Comm& comm, TestStream& t) {
  const int64_t rows = 400;
  const std::vector<int64_t> counts(static_cast<size_t>(comm.size()), rows);
  const int64_t n = rows * comm.size();
  Tensor in = Tensor::Empty(t.stream, DType::kI64, {n, 40});
  Tensor out = Tensor::Zeros(t.stream, DType::kI64, {n, 40});
  std::vector<int64_t> values(static_cast<size_t>(n * 40));
  const auto call = [&] { comm.AllToAll(t.stream, in, counts, out, counts); };
  Upload(t.stream, values.data(), in.bytes(), in);
  call();
  t.stream.Synchronize();
  Graph graph = Graph::Record(t.stream, call);
  for (int64_t turn = 1; turn <= 3; ++turn) {
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = turn * 1'000'000 * (comm.rank() + 1) + static_cast<int64_t>(i);
    Upload(t.stream, values.data(), in.bytes(), in);
    graph.Replay();
    std::vector<int64_t> got(values.size());
    Download(t.stream, out, got.data(), out.bytes());
    for (size_t i = 0; i < got.size(); ++i) {
      const auto part = static_cast<size_t>(rows * 40);
      const auto from = static_cast<int64_t>(i / part);
      const size_t there = static_cast<size_t>(comm.rank()) * part + i % part;
      ASSERT_EQ(got[i], turn * 1'000'000 * (from + 1) + static_cast<int64_t>(there))
          << turn << " " << i;
    }
  }
  t.stream.Synchronize();
}

TEST(Peer, RecordedCallsAreReplayed) {
  if (!OnPeerGroups(ExpectReplays)) GTEST_SKIP() << kNoPeers;
}

}  // namespace
}  // namespace mneme
