// A table that lives whole on the device trains like one that is spread: the same rows, the same
// norm, the same checkpoint. Asked of the CPU's ops, and of the GPU under MNEME_TEST_DEVICE=gpu.
#include "parallel/device_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/core/graph.h"
#include "parallel/row_exchange.h"
#include "tests/device_under_test.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

using test::GpuStream;
using test::TestingGpu;

constexpr int64_t kRows = 1000;
constexpr int64_t kWidth = 20;

RowTableSpec Spec(bool dense, double decay = 0.0) {
  RowTableSpec spec;
  spec.name = "blocks.1.engram.table";
  spec.rows = kRows;
  spec.width = kWidth;
  spec.init = {MakeKey(3, spec.name), 0.5};
  spec.adam.rate_mult = 5.0;
  spec.adam.decay = decay;
  spec.dense_adam = dense;
  return spec;
}

// The device asked, and a CPU beside it to compare with.
struct Machines {
  TestStream cpu;
  Stream& stream = TestingGpu() ? GpuStream() : cpu.stream;
  const Kernels& kernels = TestingGpu() ? *GpuKernels() : CpuKernels();

  template <class T>
  Tensor There(const std::vector<T>& host, Shape shape) {
    Tensor t = Tensor::Empty(stream, DTypeOf<T>, shape);
    Upload(stream, host.data(), t.bytes(), t);
    return t;
  }
  template <class T>
  std::vector<T> Here(const Tensor& t) {
    std::vector<T> host(static_cast<size_t>(t.elements()));
    if (t.device().is_cpu()) {
      Download(cpu.stream, t, host.data(), t.bytes());
    } else {
      Download(stream, t, host.data(), t.bytes());
    }
    return host;
  }
  std::unique_ptr<DeviceStore> Make(const RowTableSpec& spec) {
    auto store = DeviceStore::Make(stream, kernels, spec);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  std::unique_ptr<RowStore> MakeOther(const RowTableSpec& spec) {
    return *MakeResidentStore(cpu.stream, CpuKernels(), spec, RowShare{});
  }
  std::vector<float> Rows(RowStore& store) {
    Stream& s = dynamic_cast<DeviceStore*>(&store) != nullptr ? stream : cpu.stream;
    std::vector<int64_t> all(kRows);
    for (int64_t i = 0; i < kRows; ++i) all[static_cast<size_t>(i)] = i;
    Tensor ids = Tensor::Empty(s, DType::kI64, {kRows});
    Upload(s, all.data(), ids.bytes(), ids);
    Tensor values = Tensor::Empty(s, DType::kF32, {kRows, kWidth});
    store.Read(s, ids, values);
    return Here<float>(values);
  }
};

std::vector<double> StepOf(int u) {
  std::vector<double> step(kStepScalars);
  step[kStepRate] = 0.01;
  step[kStepBias1] = 1 - std::pow(0.9, u);
  step[kStepBias2] = 1 - std::pow(0.95, u);
  step[kStepClip] = 0.7;
  step[kStepApply] = u == 3 ? 0.0 : 1.0;  // one step is skipped
  return step;
}

// Requests of micro-batch `b` of update u: many repeats, row 42 a hot one.
std::vector<int64_t> IdsOf(int u, int b, int64_t n) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < n; ++i) {
    ids.push_back(i % 3 == 0 ? 42 : (u * 101 + b * 37 + i * i * 7) % (u < 3 ? kRows / 2 : kRows));
  }
  return ids;
}
std::vector<float> GradsOf(int u, int b, int64_t n) {
  std::vector<float> grads;
  for (int64_t i = 0; i < n * kWidth; ++i) {
    grads.push_back(static_cast<float>(std::sin(static_cast<double>(u * 31 + b * 7 + i * 3))));
  }
  return grads;
}

void ExpectClose(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-5) << i;
}

TEST(DeviceStore, RowsBeginAsAPureFunctionOfTheirNumber) {
  Machines m;
  auto store = m.Make(Spec(true));
  EXPECT_EQ(m.Rows(*store), m.Rows(*m.MakeOther(Spec(true))));
  EXPECT_EQ(store->materialised(true), 0);
  EXPECT_EQ(m.Make(Spec(true, 0.1))->materialised(true), kRows);
  EXPECT_GE(store->bytes(), 3 * kRows * kWidth * 4);
}

// The shares of a spread table hold its rows, and pass them on under the table's own numbers.
TEST(DeviceStore, SharesHoldTheRowsOfTheTable) {
  Machines m;
  const std::vector<float> whole = m.Rows(*m.Make(Spec(false)));
  constexpr int64_t kStride = 3;
  for (int64_t phase = 0; phase < kStride; ++phase) {
    auto store = *DeviceStore::Make(m.stream, m.kernels, Spec(false), true, phase, kStride);
    std::vector<int64_t> ids;
    for (int64_t id = phase; id < kRows; id += kStride) ids.push_back(id);
    const auto n = static_cast<int64_t>(ids.size());
    const auto rows_of = [&](const std::vector<int64_t>& some) {
      Tensor values =
          Tensor::Empty(m.stream, DType::kF32, {static_cast<int64_t>(some.size()), kWidth});
      store->Read(m.stream, m.There(some, {static_cast<int64_t>(some.size())}), values);
      return m.Here<float>(values);
    };
    EXPECT_EQ(store->rows(), n);
    const std::vector<float> rows = rows_of(ids);
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i], whole[static_cast<size_t>(ids[i / kWidth]) * kWidth + i % kWidth]);
    }
    // Three rows of a checkpoint, in and out again.
    std::vector<int64_t> three = {ids[1], ids[5], ids.back()};
    std::vector<float> columns[3];
    for (int c = 0; c < 3; ++c) columns[c] = GradsOf(c, 1, 3);
    const auto wrap = [&](int c) {
      return Tensor::Wrap(columns[c].data(), DType::kF32, {3, kWidth});
    };
    store->Import(m.stream, Tensor::Wrap(three.data(), DType::kI64, {3}), wrap(0), wrap(1), wrap(2),
                  true);
    EXPECT_EQ(store->materialised(true), 3);
    EXPECT_EQ(rows_of(three), columns[0]);
    Tensor out_ids = Tensor::Empty(m.stream, DType::kI64, {3});
    std::vector<Tensor> out;
    for (int c = 0; c < 3; ++c) out.push_back(Tensor::Empty(m.stream, DType::kF32, {3, kWidth}));
    store->Export(m.stream, 0, 3, out_ids, out[0], out[1], out[2]);
    EXPECT_EQ(m.Here<int64_t>(out_ids), three);
    for (int c = 0; c < 3; ++c) EXPECT_EQ(m.Here<float>(out[static_cast<size_t>(c)]), columns[c]);
  }
}

// Steps of one exchange beside those of the other.
void TrainBoth(Machines& m, RowExchange& device, RowExchange& host, int from, int until) {
  for (int u = from; u <= until; ++u) {
    for (int b = 0; b < 2; ++b) {
      const int64_t n = b == 0 || u % 2 == 0 ? 600 : 150;  // equal parts, and others
      const std::vector<int64_t> ids = IdsOf(u, b, n);
      const std::vector<float> grads = GradsOf(u, b, n);
      const FetchedRows there =
          device.Fetch(m.stream, m.There(ids, {n}), DType::kF32).Wait(m.stream);
      Tensor own_ids = Tensor::Empty(m.cpu.stream, DType::kI64, {n});
      Upload(m.cpu.stream, ids.data(), own_ids.bytes(), own_ids);
      const FetchedRows here = host.Fetch(m.cpu.stream, own_ids, DType::kF32).Wait(m.cpu.stream);
      ExpectClose(m.Here<float>(there.rows), m.Here<float>(here.rows));
      device.PushGradient(m.stream, there, m.There(grads, {n, kWidth}));
      Tensor own_grads = Tensor::Empty(m.cpu.stream, DType::kF32, {n, kWidth});
      Upload(m.cpu.stream, grads.data(), own_grads.bytes(), own_grads);
      host.PushGradient(m.cpu.stream, here, own_grads);
    }
    double squares[2] = {};
    device.ReduceGradients(m.stream);
    Tensor sum = Tensor::Zeros(m.stream, DType::kF64, {1});
    device.SumSquares(m.stream, sum);
    squares[0] = m.Here<double>(sum)[0];
    host.ReduceGradients(m.cpu.stream);
    Tensor own_sum = Tensor::Wrap(&squares[1], DType::kF64, {1});
    host.SumSquares(m.cpu.stream, own_sum);
    EXPECT_NEAR(squares[0], squares[1], 1e-5 * squares[1]);
    std::vector<double> step = StepOf(u);
    device.Update(m.stream, m.There(step, {kStepScalars}));
    host.Update(m.cpu.stream, Tensor::Wrap(step.data(), DType::kF64, {kStepScalars}));
  }
}

struct Pair {
  Pair(Machines& m, World& world, const RowTableSpec& spec) : mesh(MakeMesh(world, Layout{})) {
    auto whole = m.Make(spec);
    store = whole.get();
    device = MakeDeviceExchange(m.stream, *mesh.memory_replicas, m.kernels, std::move(whole));
    host = MakeHostExchange(mesh, CpuKernels(), m.MakeOther(spec));
  }
  Mesh mesh;
  DeviceStore* store = nullptr;
  std::unique_ptr<RowExchange> device, host;
};

TEST(DeviceExchange, TrainsLikeTheExchangeOfTheHost) {
  ThreadWorld::Run(1, [](World& world) {
    for (const bool dense : {false, true}) {
      for (const double decay : {0.0, 0.2}) {
        if (!dense && decay > 0) continue;
        Machines m;
        Pair pair(m, world, Spec(dense, decay));
        TrainBoth(m, *pair.device, *pair.host, 1, 5);
        ExpectClose(m.Rows(*pair.store), m.Rows(pair.host->store()));
        EXPECT_EQ(pair.store->materialised(true), pair.host->store().materialised(true));
        EXPECT_EQ(pair.device->traffic().requested, pair.host->traffic().requested);
        EXPECT_GT(pair.device->traffic().unique, 500);
        pair.device->ResetTraffic();
        EXPECT_EQ(pair.device->traffic().requested, 0);
      }
    }
  });
}

// What three updates of two micro-batches on each of three ranks leave, made by `ranks` of them.
struct Trained {
  std::vector<float> rows;
  double squares = 0;        // of the last gradient, over all ranks
  int64_t materialised = 0;  // likewise
  RowTraffic traffic;
};

Trained TrainReplica(World& world, const RowTableSpec& spec) {
  constexpr int kBatches = 6;
  constexpr int64_t n = 150;
  Machines m;
  const Mesh mesh = MakeMesh(world, {world.size(), 1, 1});
  const bool first = world.rank() == 0;
  auto whole = DeviceStore::Make(m.stream, m.kernels, spec, first);
  EXPECT_TRUE(whole.ok()) << whole.status();
  DeviceStore* store = whole->get();
  auto exchange = MakeDeviceExchange(m.stream, *mesh.memory_replicas, m.kernels, *std::move(whole));
  const int each = kBatches / world.size();
  double squares = 0;
  for (int u = 1; u <= 4; ++u) {
    for (int b = world.rank() * each; b < (world.rank() + 1) * each; ++b) {
      const FetchedRows rows =
          exchange->Fetch(m.stream, m.There(IdsOf(u, b, n), {n}), DType::kF32).Wait(m.stream);
      exchange->PushGradient(m.stream, rows, m.There(GradsOf(u, b, n), {n, kWidth}));
    }
    Tensor sum = Tensor::Zeros(m.stream, DType::kF64, {1});
    exchange->ReduceGradients(m.stream);
    exchange->SumSquares(m.stream, sum);
    squares = m.Here<double>(sum)[0];
    exchange->Update(m.stream, m.There(StepOf(u), {kStepScalars}));
  }
  return {m.Rows(*store), squares, store->materialised(true), exchange->traffic()};
}

// Replicas share the work and move as one rank that does all of it, to the bit.
TEST(DeviceExchange, ReplicasMoveAsOneRankThatDoesAllTheWork) {
  if (TestingGpu()) GTEST_SKIP() << "ranks on GPUs are processes (tests/gpu_parity_test.cc)";
  for (const bool dense : {false, true}) {
    Trained one;
    ThreadWorld::Run(1, [&](World& world) { one = TrainReplica(world, Spec(dense)); });
    for (const int ranks : {2, 3}) {
      ThreadWorld::Run(ranks, [&](World& world) {
        const Trained mine = TrainReplica(world, Spec(dense));
        EXPECT_EQ(mine.rows, one.rows);
        const bool first = world.rank() == 0;
        EXPECT_EQ(mine.squares, first ? one.squares : 0.0);
        EXPECT_EQ(mine.materialised, first ? one.materialised : 0);
        EXPECT_EQ(mine.traffic.requested, first ? one.traffic.requested : 0);
        EXPECT_EQ(mine.traffic.unique, first ? one.traffic.unique : 0);
        const int64_t own = one.traffic.requested / ranks;
        EXPECT_EQ(mine.traffic.bytes, own * (ranks - 1) * (8 + 4 * kWidth));
      });
    }
  }
}

// All rows with state from one store to another, in chunks.
void Carry(Machines& m, RowStore& from, RowStore& to) {
  Stream& stream = dynamic_cast<DeviceStore*>(&from) != nullptr ? m.stream : m.cpu.stream;
  const int64_t total = from.materialised(true);
  int64_t last = -1;
  for (int64_t begin = 0; begin < total; begin += 170) {
    const int64_t n = std::min<int64_t>(170, total - begin);
    Tensor ids = Tensor::Empty(stream, DType::kI64, {n});
    std::vector<Tensor> columns;
    for (int i = 0; i < 3; ++i) {
      columns.push_back(Tensor::Empty(stream, DType::kF32, {n, kWidth}));
    }
    from.Export(stream, begin, begin + n, ids, columns[0], columns[1], columns[2]);
    std::vector<int64_t> rows = m.Here<int64_t>(ids);
    for (const int64_t row : rows) {
      EXPECT_GT(row, last);
      last = row;
    }
    std::vector<std::vector<float>> host;
    for (const Tensor& column : columns) host.push_back(m.Here<float>(column));
    const auto wrap = [&](size_t i) {
      return Tensor::Wrap(host[i].data(), DType::kF32, {n, kWidth});
    };
    Stream& target = dynamic_cast<DeviceStore*>(&to) != nullptr ? m.stream : m.cpu.stream;
    to.Import(target, Tensor::Wrap(rows.data(), DType::kI64, {n}), wrap(0), wrap(1), wrap(2), true);
  }
}

// Half of the way, each into a fresh store of the other kind, and on.
TEST(DeviceExchange, CheckpointsPassBothWays) {
  ThreadWorld::Run(1, [](World& world) {
    for (const bool dense : {false, true}) {
      Machines m;
      Pair first(m, world, Spec(dense));
      TrainBoth(m, *first.device, *first.host, 1, 4);
      Pair second(m, world, Spec(dense));
      Carry(m, *first.store, second.host->store());
      Carry(m, first.host->store(), *second.store);
      EXPECT_EQ(second.store->materialised(true), first.store->materialised(true));
      TrainBoth(m, *second.device, *second.host, 5, 6);
      ExpectClose(m.Rows(*second.store), m.Rows(second.host->store()));
    }
  });
}

TEST(DeviceStore, ImportsValuesWithoutMomentsAndUpdatesByItself) {
  Machines m;
  auto store = m.Make(Spec(false));
  std::vector<int64_t> ids = {3, 7, 999};
  std::vector<float> values = GradsOf(1, 1, 3);
  store->Import(m.stream, Tensor::Wrap(ids.data(), DType::kI64, {3}),
                Tensor::Wrap(values.data(), DType::kF32, {3, kWidth}), {}, {}, false);
  EXPECT_EQ(store->materialised(true), 3);
  std::vector<float> rows = m.Rows(*store);
  EXPECT_EQ(std::memcmp(&rows[999 * kWidth], &values[2 * kWidth], 4 * kWidth), 0);
  auto other = m.MakeOther(Spec(false));
  other->Import(m.cpu.stream, Tensor::Wrap(ids.data(), DType::kI64, {3}),
                Tensor::Wrap(values.data(), DType::kF32, {3, kWidth}), {}, {}, false);
  std::vector<double> step = StepOf(1);
  std::vector<float> grads = GradsOf(2, 1, 3);
  store->Update(m.stream, m.There(step, {kStepScalars}), m.There(ids, {3}),
                m.There(grads, {3, kWidth}));
  other->Update(m.cpu.stream, Tensor::Wrap(step.data(), DType::kF64, {kStepScalars}),
                Tensor::Wrap(ids.data(), DType::kI64, {3}),
                Tensor::Wrap(grads.data(), DType::kF32, {3, kWidth}));
  ExpectClose(m.Rows(*store), m.Rows(*other));
}

NgramHash SmallHash() {
  NgramHash hash;
  hash.orders = {2, 3};
  hash.heads = 2;
  hash.pad = 1;
  hash.multipliers = {0x3243f6a8885a309, 0x13198a2e0370735, 0x243f6a8885a308d};
  hash.primes = {211, 223, 227, 229};
  hash.offsets = {0, 211, 434, 661};
  return hash;
}

struct Text {
  explicit Text(Machines& m) {
    std::vector<int32_t> ids, map, start;
    for (int i = 0; i < 120; ++i) ids.push_back(i * i % 50);
    for (int v = 0; v < 50; ++v) map.push_back(v / 2);
    for (int i = 0; i < 120; ++i) start.push_back(i % 40 / 7 * 7);
    tokens = m.There(ids, {120});
    canonical = m.There(map, {50});
    doc_start = m.There(start, {120});
  }
  RowQuery Query() const { return {hash, tokens, canonical, 40, doc_start}; }
  NgramHash hash = SmallHash();
  Tensor tokens, canonical, doc_start;
};

TEST(DeviceExchange, FetchesByTextWhatItFetchesById) {
  Machines m;
  const auto alone = MakeSoloComm();
  auto exchange = MakeDeviceExchange(m.stream, *alone, m.kernels, m.Make(Spec(false)));
  const Text text(m);
  const FetchedRows by_text = exchange->Fetch(m.stream, text.Query(), DType::kF32).Wait(m.stream);
  ASSERT_EQ(by_text.ids.elements(), 480);
  const FetchedRows by_id = exchange->Fetch(m.stream, by_text.ids, DType::kF32).Wait(m.stream);
  EXPECT_EQ(m.Here<float>(by_text.rows), m.Here<float>(by_id.rows));
}

// A step recorded once and replayed gives the bits of a step that is queued op by op.
TEST(DeviceExchange, StepsAreReplayed) {
  if (!TestingGpu()) GTEST_SKIP() << "the CPU records nothing";
  Machines m;
  const Text text(m);
  const Tensor drows = m.There(GradsOf(1, 1, 480), {480, kWidth});
  const auto alone = MakeSoloComm();
  std::vector<std::vector<float>> results;
  for (const bool replay : {false, true, true}) {
    auto whole = m.Make(Spec(true));
    DeviceStore* store = whole.get();
    auto exchange = MakeDeviceExchange(m.stream, *alone, m.kernels, std::move(whole));
    Tensor step = m.There(StepOf(1), {kStepScalars});
    Tensor sum = Tensor::Zeros(m.stream, DType::kF64, {1});
    const auto once = [&] {
      FetchedRows rows = exchange->Fetch(m.stream, text.Query(), DType::kF32).Wait(m.stream);
      exchange->PushGradient(m.stream, rows, drows);
      exchange->ReduceGradients(m.stream);
      exchange->SumSquares(m.stream, sum);
      exchange->Update(m.stream, step);
    };
    Graph graph;
    for (int u = 1; u <= 5; ++u) {
      const std::vector<double> scalars = StepOf(u);
      Upload(m.stream, scalars.data(), step.bytes(), step);
      if (replay && u > 2) {
        if (!graph.defined()) graph = Graph::Record(m.stream, once);
        graph.Replay();
      } else {
        once();
      }
    }
    results.push_back(m.Rows(*store));
    EXPECT_EQ(exchange->traffic().requested, 5 * 480);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[1], results[2]);
}

}  // namespace
}  // namespace mneme
