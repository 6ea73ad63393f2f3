// Exchanges queued one behind another, as steps queue them: no rank waits for its device, hosts are
// late now and then, and memory that was given back is filled with NaN at once. What comes out must
// be what comes out with a pause after every call.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <set>
#include <thread>
#include <vector>

#include "kernels/core/random.h"
#include "parallel/expert_exchange.h"
#include "parallel/row_exchange.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

const Kernels& RankKernels() { return RankDevice().is_cpu() ? CpuKernels() : *GpuKernels(); }

class Disorder {
 public:
  Disorder(TestStream& t, int rank)
      : t_(t), key_(MakeKey(static_cast<uint64_t>(rank), "disorder")), nan_(kMost, kNan) {
    nan_there_ = std::make_unique<Placed<float>>(t, nan_);
  }
  // Late by up to 2 ms once in four times; then blocks of free memory of several sizes are NaN.
  void Strike() {
    const int64_t draw = RandomInt(key_, calls_++, 4000);
    if (draw < 1000) std::this_thread::sleep_for(std::chrono::microseconds(2 * draw));
    std::vector<Tensor> taken;
    for (int64_t n = kMost; n >= 64; n /= 2) {
      taken.push_back(Tensor::Empty(t_.stream, DType::kF32, {n}));
      RankKernels().copy(t_.stream, nan_there_->tensor.Flat(0, n), taken.back());
    }
  }

 private:
  static constexpr int64_t kMost = 1 << 14;
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  TestStream& t_;
  RandomKey key_;
  uint64_t calls_ = 0;
  std::vector<float> nan_;
  std::unique_ptr<Placed<float>> nan_there_;
};

constexpr int64_t kExperts = 9, kChosen = 3, kWidth = 20;

// The tokens of a rank in a round: numbers that floats add exactly, and now and then none.
struct Tokens {
  Tokens(TestStream& t, int rank, int round)
      : key(MakeKey(static_cast<uint64_t>(rank * 1000 + round), "tokens")),
        n(round % 5 == rank ? 0 : RandomInt(key, 1 << 20, 300)) {
    for (int64_t i = 0; i < n * kWidth; ++i) {
      x.push_back(static_cast<float>(RandomInt(key, static_cast<uint64_t>(i), 100)));
      addend.push_back(static_cast<float>(i % 37));
    }
    for (int64_t i = 0; i < n; ++i) {
      // Now and then all go to the experts of few ranks.
      const int64_t spread = round % 7 == 0 ? 1 : kExperts;
      const int64_t first = RandomInt(key, static_cast<uint64_t>((1 << 22) + i), spread);
      for (int64_t k = 0; k < kChosen; ++k) {
        experts.push_back(static_cast<int32_t>((first + k * (1 + i % 2)) % kExperts));
        weights.push_back(static_cast<float>(i % 11 + k));
      }
    }
    const Shape rows{n, kWidth}, choices{n, kChosen};
    x_there = std::make_unique<Placed<float>>(t, x, rows);
    addend_there = std::make_unique<Placed<float>>(t, addend, rows);
    experts_there = std::make_unique<Placed<int32_t>>(t, experts, choices);
    weights_there = std::make_unique<Placed<float>>(t, weights, choices);
  }

  RandomKey key;
  int64_t n;
  std::vector<float> x, addend, weights;
  std::vector<int32_t> experts;
  std::unique_ptr<Placed<float>> x_there, addend_there, weights_there;
  std::unique_ptr<Placed<int32_t>> experts_there;
};

// What tokens get back from experts that change nothing.
struct Returned {
  Tensor y, dx, dweights;
};

// The stream has other work between the start of an exchange and the wait for it.
Returned ThereAndBack(Stream& stream, ExpertExchange& exchange, const Tokens& tokens,
                      Disorder& disorder) {
  const Tensor &x = tokens.x_there->tensor, &experts = tokens.experts_there->tensor;
  auto leaving = exchange.Dispatch(stream, x, experts, tokens.weights_there->tensor);
  disorder.Strike();
  const RoutedTokens routed = leaving.Wait(stream);
  Tensor there = Tensor::Empty(stream, x.dtype(), routed.x.shape());
  RankKernels().copy(stream, routed.x, there);
  const Tensor& addend = tokens.addend_there->tensor;
  Returned returned;
  auto returning = exchange.Combine(stream, routed, there, tokens.n);
  if (!exchange.AddsHere()) there = Tensor();  // where it is on its way it must stay
  disorder.Strike();
  returned.y = returning.Wait(stream);
  RankKernels().add(stream, addend, returned.y);
  auto dy_leaving = exchange.CombineGrad(stream, routed, x);
  disorder.Strike();
  Tensor dy = dy_leaving.Wait(stream);
  auto grad_returning = exchange.DispatchGrad(stream, routed, dy, routed.weights, experts);
  dy = Tensor();
  disorder.Strike();
  const auto grad = grad_returning.Wait(stream);
  returned.dx = grad.dx;
  returned.dweights = grad.dweights;
  return returned;
}

std::vector<float> ToHost(TestStream& t, const Tensor& x) {
  std::vector<float> host(static_cast<size_t>(x.elements()));
  if (!host.empty()) Download(t.stream, x, host.data(), x.bytes());
  return host;
}

void ExpectTokensBack(Comm& axis, TestStream& t) {
  constexpr int kRounds = 40;
  Disorder disorder(t, axis.rank());
  ExpertExchange exchange(axis, RankKernels(), kExperts);
  std::vector<std::unique_ptr<Tokens>> tokens;
  for (int i = 0; i < kRounds; ++i) tokens.push_back(std::make_unique<Tokens>(t, axis.rank(), i));
  std::vector<Returned> returned;
  for (int i = 0; i < kRounds; ++i) {
    returned.push_back(ThereAndBack(t.stream, exchange, *tokens[static_cast<size_t>(i)], disorder));
    disorder.Strike();
  }
  for (int i = 0; i < kRounds; ++i) {
    const Tokens& sent = *tokens[static_cast<size_t>(i)];
    const Returned& got = returned[static_cast<size_t>(i)];
    std::vector<float> y, dx;
    for (int64_t row = 0; row < sent.n; ++row) {
      std::set<int> owners;
      for (int64_t k = 0; k < kChosen; ++k)
        owners.insert(
            OwnerOf(kExperts, axis.size(), sent.experts[static_cast<size_t>(row * kChosen + k)]));
      for (int64_t d = 0; d < kWidth; ++d) {
        const auto at = static_cast<size_t>(row * kWidth + d);
        dx.push_back(static_cast<float>(owners.size()) * sent.x[at]);
        y.push_back(dx.back() + sent.addend[at]);
      }
    }
    ASSERT_EQ(ToHost(t, got.y), y) << "round " << i;
    ASSERT_EQ(ToHost(t, got.dx), dx) << "round " << i;
    ASSERT_EQ(ToHost(t, got.dweights), sent.weights) << "round " << i;
  }
}

TEST(InFlight, TokensComeBackFromTheirExperts) {
  OnGroups([](Comm& axis) {
    TestStream t;
    ExpectTokensBack(axis, t);
  });
}

TEST(InFlight, TokensComeBackThroughPeerMemory) {
  if (!OnPeerGroups(ExpectTokensBack)) GTEST_SKIP() << "no rank has a GPU of its own";
}

constexpr int64_t kVocabulary = 97, kLength = 64, kRowWidth = 8;

struct Texts {
  Texts(TestStream& t, int rank, int micro_batches)
      : canonical_host(kVocabulary), start_host(kLength, 0) {
    hash.orders = {2, 3};
    hash.heads = 2;
    hash.multipliers = {0x3243f6a8885a309, 0x13198a2e0370735, 0x243f6a8885a308d};
    hash.primes = {997, 991, 983, 977};
    hash.offsets = {0, 1000, 2000, 3000};
    for (size_t v = 0; v < canonical_host.size(); ++v)
      canonical_host[v] = static_cast<int32_t>(v / 2);
    canonical = std::make_unique<Placed<int32_t>>(t, canonical_host);
    start = std::make_unique<Placed<int32_t>>(t, start_host);
    const RandomKey key = MakeKey(static_cast<uint64_t>(rank), "text");
    ids_host.resize(static_cast<size_t>(micro_batches));
    for (size_t b = 0; b < ids_host.size(); ++b) {
      for (int64_t i = 0; i < kLength; ++i) {
        const auto place = static_cast<uint64_t>(b * kLength) + static_cast<uint64_t>(i);
        ids_host[b].push_back(static_cast<int32_t>(
            b % 3 == 0 ? 5 : RandomInt(key, place, kVocabulary)));  // some texts are one word
      }
      ids.push_back(std::make_unique<Placed<int32_t>>(t, ids_host[b]));
    }
  }
  RowQuery Query(size_t b) const {
    return {hash, ids[b]->tensor, canonical->tensor, kLength, start->tensor};
  }

  NgramHash hash;
  std::vector<int32_t> canonical_host, start_host;
  std::vector<std::vector<int32_t>> ids_host;
  std::unique_ptr<Placed<int32_t>> canonical, start;
  std::vector<std::unique_ptr<Placed<int32_t>>> ids;
};

// The rows of every micro-batch of a few steps, and the norms of their gradients.
std::vector<std::vector<float>> Train(Mesh& mesh, bool in_flight) {
  constexpr int kSteps = 4, kMicroBatches = 6;
  TestStream t;
  Disorder disorder(t, mesh.rank);
  RowTableSpec spec;
  spec.name = "table";
  spec.rows = 4000;
  spec.width = kRowWidth;
  spec.init = {MakeKey(1, spec.name), 0.02};
  auto store = DeviceStore::Make(t.stream, RankKernels(), spec, mesh.memory_replicas->rank() == 0,
                                 mesh.memory->rank(), mesh.memory->size());
  EXPECT_TRUE(store.ok()) << store.status();
  const auto table = MakeSpreadExchange(*mesh.memory, *mesh.memory_replicas, RankKernels(),
                                        *std::move(store), /*merge_from=*/200);
  const Texts texts(t, mesh.rank, kSteps * kMicroBatches);
  std::vector<Tensor> rows, squares;
  const auto pause = [&] { in_flight ? disorder.Strike() : t.stream.Synchronize(); };
  std::vector<double> step(kStepScalars, 1.0);
  step[0] = 0.01;
  Placed<double> step_there(t, step);
  for (size_t b = 0; b < kSteps * kMicroBatches; ++b) {
    const bool first = b % kMicroBatches == 0, last = b % kMicroBatches == kMicroBatches - 1;
    if (in_flight && first) table->Announce(t.stream, texts.Query(b));
    if (in_flight && !last) table->Announce(t.stream, texts.Query(b + 1));
    auto coming = table->Fetch(t.stream, texts.Query(b), DType::kF32);
    pause();
    const FetchedRows fetched = coming.Wait(t.stream);
    pause();
    rows.push_back(fetched.rows);
    Tensor gradient = Tensor::Empty(t.stream, DType::kF32, fetched.rows.shape());
    RankKernels().copy(t.stream, fetched.rows, gradient);
    table->PushGradient(t.stream, fetched, gradient);
    gradient = Tensor();
    pause();
    if (!last) continue;
    table->ReduceGradients(t.stream);
    squares.push_back(Tensor::Zeros(t.stream, DType::kF64, {1}));
    table->SumSquares(t.stream, squares.back());
    pause();
    table->Update(t.stream, step_there.tensor);
    pause();
  }
  std::vector<std::vector<float>> out;
  for (const Tensor& x : rows) out.push_back(ToHost(t, x));
  for (const Tensor& x : squares) {
    double sum = 0;
    Download(t.stream, x, &sum, x.bytes());
    out.push_back({static_cast<float>(sum)});
  }
  return out;
}

TEST(InFlight, RowsAreThoseOfOneCallAfterAnother) {
  OnWorlds([](World& world) {
    // An axis of one has no GPU half: there a table is whole (device_exchange.cc).
    for (int memory = RankDevice().is_cpu() ? 1 : 2; memory <= world.size(); ++memory) {
      if (world.size() % memory != 0) continue;
      Mesh mesh = MakeMesh(world, {world.size(), 1, memory}, RankDevice());
      const auto want = Train(mesh, false);
      for (const std::vector<float>& x : want)
        for (const float value : x) ASSERT_TRUE(std::isfinite(value));
      for (int turn = 0; turn < 3; ++turn) EXPECT_EQ(Train(mesh, true), want) << memory;
    }
  });
}

}  // namespace
}  // namespace mneme
