// Experts spread over an axis give what they give on one rank: outputs, and gradients of tokens,
// weights and matrices.
#include "parallel/expert_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/core/dry.h"
#include "parallel/dry.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

constexpr int64_t kExperts = 7;  // uneven on every axis
constexpr int64_t kWidth = 4;
constexpr int64_t kHidden = 3;
constexpr int64_t kChosen = 3;

struct Batch {
  std::vector<double> x, dy, weights;
  std::vector<int32_t> experts;
  int64_t tokens;
};

double Draw(int64_t a, int64_t b) { return std::sin(static_cast<double>(a * 13 + b * 7 + 1)); }

// Tokens of one rank; rank 2 has none, and rank 1 all go to the same experts.
Batch BatchOf(int rank) {
  Batch b;
  b.tokens = rank == 2 ? 0 : 5 + rank;
  for (int64_t t = 0; t < b.tokens; ++t) {
    for (int64_t d = 0; d < kWidth; ++d) {
      b.x.push_back(Draw(rank * 100 + t, d));
      b.dy.push_back(Draw(rank * 100 + t, d + 50));
    }
    for (int64_t k = 0; k < kChosen; ++k) {
      const int64_t first = rank == 1 ? 4 : rank * 3 + t;
      b.experts.push_back(static_cast<int32_t>((first + k * 2) % kExperts));
      b.weights.push_back(0.3 + 0.1 * Draw(t, k));
    }
  }
  return b;
}

// Everything that a rank gets out of forward and backward; matrices of its experts.
struct Result {
  std::vector<double> y, dx, dweights, d_gate_up, d_down;
};

std::vector<double> ToVector(const Tensor& x) {
  return {x.data<double>(), x.data<double>() + x.elements()};
}

Result RunExperts(Comm& axis, std::vector<Batch> batches) {
  TestStream t;
  const Kernels& kernels = CpuKernels();
  ExpertExchange exchange(axis, kernels, kExperts);
  const Range local = exchange.local();
  std::vector<double> gate_up, down;
  for (int64_t e = local.begin; e < local.end; ++e) {
    for (int64_t i = 0; i < 2 * kHidden * kWidth; ++i) gate_up.push_back(Draw(e + 1000, i));
    for (int64_t i = 0; i < kHidden * kWidth; ++i) down.push_back(Draw(e + 2000, i));
  }
  const Shape in_shape{local.size(), 2 * kHidden, kWidth};
  const Shape out_shape{local.size(), kWidth, kHidden};
  const Tensor w_in = Tensor::Wrap(gate_up.data(), DType::kF64, in_shape);
  const Tensor w_out = Tensor::Wrap(down.data(), DType::kF64, out_shape);
  Tensor d_in = Tensor::Zeros(t.stream, DType::kF64, in_shape);
  Tensor d_out = Tensor::Zeros(t.stream, DType::kF64, out_shape);
  Result result;
  for (Batch& b : batches) {
    const Tensor x = Tensor::Wrap(b.x.data(), DType::kF64, {b.tokens, kWidth});
    const Tensor dy = Tensor::Wrap(b.dy.data(), DType::kF64, {b.tokens, kWidth});
    const Tensor weights = Tensor::Wrap(b.weights.data(), DType::kF64, {b.tokens, kChosen});
    const Tensor experts = Tensor::Wrap(b.experts.data(), DType::kI32, {b.tokens, kChosen});
    const RoutedTokens routed = exchange.Dispatch(t.stream, x, experts, weights).Wait(t.stream);
    const int64_t rows = routed.x.dim(0);
    ExpertsSaved saved;
    Tensor y_here = Tensor::Empty(t.stream, DType::kF64, {rows, kWidth});
    kernels.experts(t.stream, routed.x, routed.experts, routed.weights, w_in, w_out,
                    exchange.AddsHere() ? x : Tensor(), y_here, saved);
    Tensor y = exchange.Combine(t.stream, routed, y_here, b.tokens).Wait(t.stream);
    if (!exchange.AddsHere()) kernels.add(t.stream, x, y);
    const Tensor dy_here = exchange.CombineGrad(t.stream, routed, dy).Wait(t.stream);
    Tensor dx_here = Tensor::Empty(t.stream, DType::kF64, {rows, kWidth});
    Tensor dweights_here = Tensor::Empty(t.stream, DType::kF64, {rows, kChosen});
    kernels.experts_grad(t.stream, dy_here, routed.x, routed.weights, w_in, w_out, saved, dx_here,
                         dweights_here, d_in, d_out);
    const ExpertExchange::SourceGrad grad =
        exchange.DispatchGrad(t.stream, routed, dx_here, dweights_here, experts).Wait(t.stream);
    const auto append = [](std::vector<double>& to, const Tensor& from) {
      const std::vector<double> values = ToVector(from);
      to.insert(to.end(), values.begin(), values.end());
    };
    append(result.y, y);
    append(result.dx, grad.dx);
    append(result.dweights, grad.dweights);
  }
  result.d_gate_up = ToVector(d_in);
  result.d_down = ToVector(d_out);
  return result;
}

void ExpectNear(const std::vector<double>& got, const double* want, const char* what) {
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12) << what << " " << i;
}

TEST(ExpertExchange, AnAxisOfNGivesWhatOneRankGives) {
  OnGroups([](Comm& axis) {
    std::vector<Batch> all;
    for (int r = 0; r < axis.size(); ++r) all.push_back(BatchOf(r));
    const Result whole = RunExperts(*MakeSoloComm(), all);
    const Result mine = RunExperts(axis, {BatchOf(axis.rank())});
    int64_t tokens_before = 0;
    for (int r = 0; r < axis.rank(); ++r) tokens_before += all[static_cast<size_t>(r)].tokens;
    ExpectNear(mine.y, whole.y.data() + tokens_before * kWidth, "y");
    ExpectNear(mine.dx, whole.dx.data() + tokens_before * kWidth, "dx");
    ExpectNear(mine.dweights, whole.dweights.data() + tokens_before * kChosen, "dweights");
    const int64_t first = PartOf(kExperts, axis.size(), axis.rank()).begin;
    ExpectNear(mine.d_gate_up, whole.d_gate_up.data() + first * 2 * kHidden * kWidth, "gate_up");
    ExpectNear(mine.d_down, whole.d_down.data() + first * kHidden * kWidth, "down");
    // The comparison is of something.
    double sum = 0;
    for (double v : whole.dweights) sum += std::fabs(v);
    EXPECT_GT(sum, 0.1);
  });
}

// A token goes once to each rank that owns any of its experts, in order of tokens.
TEST(ExpertExchange, SendsATokenOnceToEachOwner) {
  OnGroups([](Comm& axis) {
    TestStream t;
    Batch b = BatchOf(0);
    ExpertExchange exchange(axis, CpuKernels(), kExperts);
    const Tensor x = Tensor::Wrap(b.x.data(), DType::kF64, {b.tokens, kWidth});
    const Tensor weights = Tensor::Wrap(b.weights.data(), DType::kF64, {b.tokens, kChosen});
    const Tensor experts = Tensor::Wrap(b.experts.data(), DType::kI32, {b.tokens, kChosen});
    const RoutedTokens routed = exchange.Dispatch(t.stream, x, experts, weights).Wait(t.stream);
    if (axis.size() == 1) {
      EXPECT_EQ(routed.x.raw(), x.raw());  // a view
      return;
    }
    size_t row = 0;
    for (int d = 0; d < axis.size(); ++d) {
      const Range owned = PartOf(kExperts, axis.size(), d);
      for (int64_t token = 0; token < b.tokens; ++token) {
        bool goes = false;
        for (int64_t k = 0; k < kChosen; ++k) {
          const int32_t e = b.experts[static_cast<size_t>(token * kChosen + k)];
          goes = goes || (e >= owned.begin && e < owned.end);
        }
        if (!goes) continue;
        ASSERT_LT(static_cast<int64_t>(row), routed.sent.elements());
        EXPECT_EQ(routed.sent.data<int32_t>()[row++], token);
      }
    }
    EXPECT_EQ(static_cast<int64_t>(row), routed.sent.elements());
    // All ranks sent the same tokens: as many came from each.
    for (int64_t rows : routed.recv) EXPECT_EQ(rows, routed.recv[0]);
  });
}

// What peer memory does (parallel/peer_comm.h), over another group: rows go to the owners' room as
// soon as counts are known, if it does for all.
class DirectOver : public Comm, public DirectExchange {
 public:
  explicit DirectOver(Comm& comm) : comm_(comm) {}
  int64_t calls_put = 0, calls_gathered = 0;

  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  void AllReduce(Stream& s, Tensor& x, Reduce op) override { comm_.AllReduce(s, x, op); }
  void ReduceScatter(Stream& s, const Tensor& in, absl::Span<const int64_t> counts,
                     Tensor& out) override {
    comm_.ReduceScatter(s, in, counts, out);
  }
  void AllGather(Stream& s, const Tensor& in, absl::Span<const int64_t> counts,
                 Tensor& out) override {
    comm_.AllGather(s, in, counts, out);
  }
  void AllToAll(Stream& s, const Tensor& in, absl::Span<const int64_t> send, Tensor& out,
                absl::Span<const int64_t> recv) override {
    comm_.AllToAll(s, in, send, out, recv);
  }
  void Broadcast(Stream& s, Tensor& x, int root) override { comm_.Broadcast(s, x, root); }
  std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send) override {
    return comm_.ExchangeCounts(send);
  }
  std::unique_ptr<Comm> Split(int color, int key, Axis axis) override {
    return comm_.Split(color, key, axis);
  }
  int64_t bytes_sent() const override { return sent_; }
  DirectExchange* direct() override { return this; }

  void GatherToAll(Stream& s, absl::Span<const Tensor> in, const Tensor& index,
                   absl::Span<const int64_t> send, absl::Span<Tensor> out,
                   absl::Span<const int64_t> recv) override {
    ++calls_gathered;
    Move(s, in, index, send, out, recv);
  }
  void Tell(Stream& s, const Tensor& leaving, absl::Span<const Tensor> out, Tensor& told) override {
    const int64_t members = size();
    const std::vector<int64_t> one(static_cast<size_t>(members), 1);
    Tensor coming = told.Rows(members, 2 * members);
    comm_.AllToAll(s, leaving, one, coming, one);
    send_.clear();
    recv_.clear();
    const int64_t* counts = told.data<int64_t>();
    int64_t rows = 0;
    for (int64_t r = 0; r < members; ++r) {
      send_.push_back(counts[2 * r]);
      recv_.push_back(counts[2 * (members + r)]);
      rows += recv_.back();
    }
    int64_t short_of = 0;
    for (const Tensor& x : out) short_of = std::max(short_of, rows - x.dim(0));
    Tensor worst = Tensor::Wrap(&short_of, DType::kI64, {1});
    comm_.AllReduce(s, worst, Reduce::kMax);
    fits_ = short_of == 0;
    told.data<int64_t>()[4 * members] = fits_ ? 1 : 0;
  }
  void PutTold(Stream& s, absl::Span<const Tensor> in, const Tensor& index,
               absl::Span<Tensor> out) override {
    if (!fits_) return;
    ++calls_put;
    const auto total = [](const std::vector<int64_t>& n) {
      return std::accumulate(n.begin(), n.end(), int64_t{0});
    };
    std::vector<Tensor> leaving, coming;
    for (size_t i = 0; i < in.size(); ++i) {
      leaving.push_back(i == 0 ? in[0] : in[i].Rows(0, total(send_)));
      coming.push_back(out[i].Rows(0, total(recv_)));
    }
    Move(s, leaving, index.Rows(0, total(send_)), send_, absl::MakeSpan(coming), recv_);
  }
  void AddSent(int64_t bytes) override { sent_ += bytes; }

 private:
  void Move(Stream& s, absl::Span<const Tensor> in, const Tensor& index,
            absl::Span<const int64_t> send, absl::Span<Tensor> out,
            absl::Span<const int64_t> recv) {
    std::vector<Tensor> gathered(in.begin(), in.end());
    gathered[0] = Tensor::Empty(s, in[0].dtype(), {index.elements(), in[0].dim(1)});
    CpuKernels().gather_rows(s, in[0], index, gathered[0]);
    comm_.AllToAllOf(s, gathered, send, out, recv);
  }

  Comm& comm_;
  std::vector<int64_t> send_, recv_;
  bool fits_ = false;
  int64_t sent_ = 0;
};

// Rows that wait for no host are those that do: in both directions, with room for what comes and
// without, and where nobody's tokens come.
TEST(ExpertExchange, RowsThatGoStraightAreTheSame) {
  OnGroups([](Comm& axis) {
    if (axis.size() == 1) return;
    TestStream t;
    constexpr int64_t kMany = 7000;
    DirectOver direct(axis);
    ExpertExchange straight(direct, CpuKernels(), kExperts), plain(axis, CpuKernels(), kExperts);
    // Experts of the first so many are chosen.
    for (const int64_t spread : {kExperts, kExperts, int64_t{1}, int64_t{1}}) {
      const int64_t n = axis.rank() == 1 ? 0 : kMany;
      std::vector<float> x, weights;
      std::vector<int32_t> experts;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t d = 0; d < kWidth; ++d)
          x.push_back(static_cast<float>(Draw(axis.rank() * kMany + i, d)));
        experts.push_back(static_cast<int32_t>((i + axis.rank()) % spread));
        weights.push_back(static_cast<float>(i));
      }
      const Tensor x_there = Tensor::Wrap(x.data(), DType::kF32, {n, kWidth});
      const Tensor w_there = Tensor::Wrap(weights.data(), DType::kF32, {n, 1});
      const Tensor e_there = Tensor::Wrap(experts.data(), DType::kI32, {n, 1});
      std::vector<std::vector<float>> got[2];
      std::vector<int32_t> numbers[2];
      std::vector<int64_t> routes[2];
      for (const int way : {0, 1}) {
        ExpertExchange& exchange = way == 0 ? straight : plain;
        const RoutedTokens routed =
            exchange.Dispatch(t.stream, x_there, e_there, w_there).Wait(t.stream);
        const Tensor y = exchange.Combine(t.stream, routed, routed.x, n).Wait(t.stream);
        const Tensor again = exchange.SendAgain(t.stream, routed, x_there).Wait(t.stream);
        for (const Tensor& one : {routed.x, routed.weights, y, again})
          got[way].emplace_back(one.data<float>(), one.data<float>() + one.elements());
        const auto* e = routed.experts.data<int32_t>();
        numbers[way].assign(e, e + routed.experts.elements());
        for (const auto& counts : {routed.send, routed.recv, routed.pairs})
          routes[way].insert(routes[way].end(), counts.begin(), counts.end());
      }
      EXPECT_EQ(got[0], got[1]);
      EXPECT_EQ(numbers[0], numbers[1]);
      EXPECT_EQ(routes[0], routes[1]);
    }
    // The third time more come to one than has room; and gradients' way is a gathered one.
    EXPECT_GE(direct.calls_put, 1);
    EXPECT_GE(direct.calls_gathered, 4 + 1);
    EXPECT_GT(direct.bytes_sent() + (axis.rank() == 1 ? 1 : 0), 0);
  });
}

// A rehearsal takes the way of the run: the same rows come, and more than there is room for at
// first are sent again.
TEST(ExpertExchange, PeerMemoryIsRehearsed) {
  constexpr int64_t kTokens = 4096;
  for (const double load : {1.0, 2.0}) {
    std::vector<int64_t> rows, sent;
    for (const bool peer : {false, true}) {
      Device device{Device::Kind::kGpu, 0};
      device.dry = true;
      Allocator allocator(device);
      Stream stream(device, allocator);
      allocator.Reserve(Allocator::kAnyLength);
      Layout layout{4, 4, 1};
      layout.peer = peer;
      const Mesh mesh = MakeDryMesh(layout, load, kTokens);
      ASSERT_EQ(mesh.expert->direct() != nullptr, peer);
      ExpertExchange exchange(*mesh.expert, DryKernels(), kExperts);
      const Tensor x = Tensor::Empty(stream, DType::kBf16, {kTokens, 64});
      Tensor experts = Tensor::Empty(stream, DType::kI32, {kTokens, kChosen});
      for (int64_t i = 0; i < experts.elements(); ++i)
        experts.data<int32_t>()[i] = static_cast<int32_t>((i + i / 5) % kExperts);
      const Tensor weights = Tensor::Empty(stream, DType::kF32, {kTokens, kChosen});
      for (int turn = 0; turn < 2; ++turn) {
        const int64_t before = mesh.expert->bytes_sent();
        const RoutedTokens routed = exchange.Dispatch(stream, x, experts, weights).Wait(stream);
        const Tensor y = exchange.Combine(stream, routed, routed.x, kTokens).Wait(stream);
        EXPECT_EQ(exchange.SendAgain(stream, routed, x).Wait(stream).dim(0), routed.x.dim(0));
        rows.push_back(routed.x.dim(0));
        sent.push_back(mesh.expert->bytes_sent() - before);
        EXPECT_EQ(y.dim(0), kTokens);
      }
      // Experts in use stay; what was lent to travel has gone back.
      EXPECT_LT(allocator.use(MemoryTag::kExchange).live, 1 << 20);
    }
    EXPECT_GT(rows[0], load * kTokens);
    EXPECT_EQ(rows[0], rows[2]);
    EXPECT_EQ(rows[1], rows[3]);
    EXPECT_EQ(sent[0], sent[2]) << "where there is no room, nothing is put";
    EXPECT_EQ(sent[1], sent[3]);
  }
}

// Rows of neighbouring members stay together while there is room; a member's own are not parted.
TEST(ExpertExchange, PiecesAreRowsOfNeighbours) {
  TestStream t;
  RoutedTokens routed;
  routed.x = Tensor::Zeros(t.stream, DType::kF64, {12, 1});
  routed.recv = {3, 0, 4, 5};
  routed.pairs = {5, 0, 4, 9};
  const auto pieces = [&](int64_t most) {
    std::vector<std::vector<int64_t>> out;
    for (const ExpertPiece& p : PiecesOf(routed, most))
      out.push_back({p.rows.begin, p.rows.end, p.pairs});
    return out;
  };
  using Pieces = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(pieces(18), (Pieces{{0, 12, 18}}));
  EXPECT_EQ(pieces(17), (Pieces{{0, 7, 9}, {7, 12, 9}}));
  EXPECT_EQ(pieces(8), (Pieces{{0, 3, 5}, {3, 7, 4}, {7, 12, 9}}));
}

}  // namespace
}  // namespace mneme
