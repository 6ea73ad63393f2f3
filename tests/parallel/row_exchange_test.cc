// A table spread over any number of ranks and any memory axis trains like one table: the same rows,
// the same gradient norm, the same rows after several steps. The reference is written here, in
// double, with maps.
#include "parallel/row_exchange.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

constexpr int64_t kRows = 211;
constexpr int64_t kWidth = 3;
constexpr int64_t kIds = 24;  // requested by one micro-batch of one sequence
constexpr int64_t kSequences = 12;
constexpr int kSteps = 4;

RowTableSpec Spec(bool dense, DType dtype) {
  RowTableSpec spec;
  spec.name = "table";
  spec.rows = kRows;
  spec.width = kWidth;
  spec.dtype = dtype;
  spec.init = {MakeKey(11, spec.name), 0.5};
  spec.dense_adam = dense;
  return spec;
}

std::vector<double> StepOf(int u) {
  std::vector<double> step(kStepScalars);
  step[kStepRate] = 0.02;
  step[kStepBias1] = 1 - std::pow(0.9, u);
  step[kStepBias2] = 1 - std::pow(0.95, u);
  step[kStepClip] = 0.5;
  step[kStepApply] = u == 3 ? 0.0 : 1.0;  // one step is skipped
  return step;
}

// Ids that a sequence asks for: many repeats, inside a sequence and between sequences; sequence 5
// always asks the same.
int64_t IdOf(int step, int64_t sequence, int64_t i) {
  if (sequence == 5) return 42;
  return (step * 5 + sequence * sequence * 3 + i * i) % (step < 3 ? kRows / 2 : kRows);
}
// Gradient of a request.
double GradOf(int step, int64_t sequence, int64_t i, int64_t c) {
  return std::sin(static_cast<double>(step * 31 + sequence * 7 + i * 3 + c));
}

struct Row {
  double p[kWidth], m[kWidth] = {}, v[kWidth] = {};
};

class Reference {
 public:
  explicit Reference(const RowTableSpec& spec) : spec_(spec) {}

  Row At(int64_t id) const {
    const auto it = rows_.find(id);
    if (it != rows_.end()) return it->second;
    Row row;
    for (int64_t c = 0; c < kWidth; ++c) {
      row.p[c] =
          spec_.init.std * RandomNormal(spec_.init.key, static_cast<uint64_t>(id * kWidth + c));
    }
    return row;
  }

  // Σ of squares of the whole gradient, before anything moves.
  double Step(int u) {
    std::map<int64_t, std::vector<double>> grads;
    for (int64_t s = 0; s < kSequences; ++s) {
      for (int64_t i = 0; i < kIds; ++i) {
        std::vector<double>& g = grads[IdOf(u, s, i)];
        g.resize(kWidth);
        for (int64_t c = 0; c < kWidth; ++c) g[static_cast<size_t>(c)] += GradOf(u, s, i, c);
      }
    }
    double squares = 0;
    for (const auto& [id, g] : grads) {
      for (double x : g) squares += x * x;
    }
    const std::vector<double> step = StepOf(u);
    if (step[kStepApply] == 0) return squares;
    for (const auto& [id, g] : grads) rows_.try_emplace(id, At(id));
    for (auto& [id, row] : rows_) {
      const auto it = grads.find(id);
      if (it == grads.end() && !spec_.dense_adam) continue;
      for (int64_t c = 0; c < kWidth; ++c) {
        const double g =
            it == grads.end() ? 0 : step[kStepClip] * it->second[static_cast<size_t>(c)];
        row.m[c] = 0.9 * row.m[c] + 0.1 * g;
        row.v[c] = 0.95 * row.v[c] + 0.05 * g * g;
        row.p[c] -= step[kStepRate] * (row.m[c] / step[kStepBias1]) /
                    (std::sqrt(row.v[c] / step[kStepBias2]) + 1e-20);
      }
    }
    return squares;
  }
  int64_t materialised() const { return static_cast<int64_t>(rows_.size()); }

 private:
  RowTableSpec spec_;
  std::map<int64_t, Row> rows_;
};

// One micro-batch: a rank's sequences [begin, end), fetched, compared with the reference, gradients
// pushed.
void MicroBatch(Stream& stream, RowExchange& table, const Reference& reference, int u,
                Range sequences) {
  const int64_t n = sequences.size() * kIds;
  std::vector<int64_t> ids;
  std::vector<double> grads;
  for (int64_t s = sequences.begin; s < sequences.end; ++s) {
    for (int64_t i = 0; i < kIds; ++i) {
      ids.push_back(IdOf(u, s, i));
      for (int64_t c = 0; c < kWidth; ++c) grads.push_back(GradOf(u, s, i, c));
    }
  }
  const Tensor wanted = Tensor::Wrap(ids.data(), DType::kI64, {n});
  const FetchedRows fetched = table.Fetch(stream, wanted, DType::kF64).Wait(stream);
  const int32_t* inverse = fetched.inverse.data<int32_t>();
  for (int64_t i = 0; i < n; ++i) {
    const RowShare& share = table.store().share();
    const int64_t id = ids[static_cast<size_t>(i)];
    ASSERT_EQ(fetched.ids.data<int64_t>()[inverse[i]], share.number(id));
    const Row want = reference.At(ids[static_cast<size_t>(i)]);
    for (int64_t c = 0; c < kWidth; ++c) {
      ASSERT_NEAR(fetched.rows.data<double>()[i * kWidth + c], want.p[c], 1e-12);
    }
  }
  table.PushGradient(stream, fetched, Tensor::Wrap(grads.data(), DType::kF64, {n, kWidth}));
}

double GlobalSquares(Stream& stream, Mesh& mesh, RowExchange& table) {
  double mine = 0;
  Tensor sum = Tensor::Wrap(&mine, DType::kF64, {1});
  table.SumSquares(stream, sum);
  mesh.world->AllReduce(stream, sum, Reduce::kSum);
  return mine;
}

// Where rows live, and by which exchange they are reached.
enum class Kind { kLazy, kResident, kDevice, kDeviceMerging };

std::unique_ptr<RowExchange> MakeTable(Stream& stream, Mesh& mesh, Kind kind, bool dense,
                                       DType dtype = DType::kF64) {
  const RowTableSpec spec = Spec(dense, dtype);
  if (kind == Kind::kDevice || kind == Kind::kDeviceMerging) {
    const bool first = mesh.memory_replicas->rank() == 0;
    auto store = DeviceStore::Make(stream, CpuKernels(), spec, first, mesh.memory->rank(),
                                   mesh.memory->size());
    EXPECT_TRUE(store.ok());
    return MakeSpreadExchange(*mesh.memory, *mesh.memory_replicas, CpuKernels(), *std::move(store),
                              kind == Kind::kDeviceMerging ? 1 : kMergeFrom);
  }
  auto store = MakeRowStore(stream, CpuKernels(), mesh, spec, kind == Kind::kResident);
  EXPECT_TRUE(store.ok());
  return MakeHostExchange(mesh, CpuKernels(), *std::move(store));
}

std::vector<Layout> MemoryLayouts(int world) {
  std::vector<Layout> out;
  for (int memory = 1; memory <= world; ++memory) {
    if (world % memory == 0) out.push_back({world, 1, memory});
  }
  return out;
}

void TrainLikeTheReference(World& world, const Layout& layout, Kind kind, bool dense) {
  TestStream t;
  Mesh mesh = MakeMesh(world, layout);
  auto table = MakeTable(t.stream, mesh, kind, dense);
  Reference reference(Spec(dense, DType::kF64));
  const Range mine = PartOf(kSequences, layout.world, world.rank());
  for (int u = 1; u <= kSteps; ++u) {
    const int64_t half = (mine.begin + mine.end) / 2;  // two micro-batches
    MicroBatch(t.stream, *table, reference, u, {mine.begin, half});
    MicroBatch(t.stream, *table, reference, u, {half, mine.end});
    table->ReduceGradients(t.stream);
    const double squares = GlobalSquares(t.stream, mesh, *table);
    std::vector<double> step = StepOf(u);
    table->Update(t.stream, Tensor::Wrap(step.data(), DType::kF64, {kStepScalars}));
    const double want = reference.Step(u);
    EXPECT_NEAR(squares, want, 1e-9 * want);
  }
  // Every row's state is kept once; every replica has every row that any touched.
  EXPECT_EQ(world.Sum(table->store().materialised(true)), reference.materialised());
  // On a device one replica tells of them.
  const bool device = kind == Kind::kDevice || kind == Kind::kDeviceMerging;
  const int64_t told = device ? 1 : layout.memory_replicas();
  EXPECT_EQ(world.Sum(table->store().materialised(false)), reference.materialised() * told);
  MicroBatch(t.stream, *table, reference, 7, {0, kSequences});
}

TEST(RowExchange, TrainsLikeOneTableOnEveryLayout) {
  OnWorlds([](World& world) {
    for (const Layout& layout : MemoryLayouts(world.size())) {
      for (const Kind kind : {Kind::kLazy, Kind::kResident, Kind::kDevice, Kind::kDeviceMerging}) {
        for (bool dense : {false, true}) TrainLikeTheReference(world, layout, kind, dense);
      }
    }
  });
}

// A few steps in float: the bits of every row that a rank holds.
std::vector<float> TrainedBits(World& world, const Layout& layout, Kind kind, bool dense) {
  TestStream t;
  Mesh mesh = MakeMesh(world, layout);
  auto table = MakeTable(t.stream, mesh, kind, dense, DType::kF32);
  const Range mine = PartOf(kSequences, layout.world, world.rank());
  for (int u = 1; u <= kSteps; ++u) {
    std::vector<int64_t> ids;
    std::vector<float> grads;
    for (int64_t s = mine.begin; s < mine.end; ++s) {
      for (int64_t i = 0; i < kIds; ++i) {
        ids.push_back(IdOf(u, s, i));
        for (int64_t c = 0; c < kWidth; ++c) {
          grads.push_back(static_cast<float>(GradOf(u, s, i, c)));
        }
      }
    }
    const auto n = static_cast<int64_t>(ids.size());
    const Tensor wanted = Tensor::Wrap(ids.data(), DType::kI64, {n});
    const FetchedRows fetched = table->Fetch(t.stream, wanted, DType::kF32).Wait(t.stream);
    table->PushGradient(t.stream, fetched, Tensor::Wrap(grads.data(), DType::kF32, {n, kWidth}));
    table->ReduceGradients(t.stream);
    std::vector<double> step = StepOf(u);
    table->Update(t.stream, Tensor::Wrap(step.data(), DType::kF64, {kStepScalars}));
  }
  std::vector<int64_t> all;
  for (int64_t id = 0; id < kRows; ++id) {
    if (table->store().share().holds(id)) all.push_back(id);
  }
  const auto n = static_cast<int64_t>(all.size());
  std::vector<float> bits(all.size() * kWidth);
  Tensor values = Tensor::Wrap(bits.data(), DType::kF32, {n, kWidth});
  table->store().Read(t.stream, Tensor::Wrap(all.data(), DType::kI64, {n}), values);
  return bits;
}

TEST(RowExchange, StoresGiveTheSameBitsAndReplicasStayEqual) {
  OnWorlds([](World& world) {
    for (const Layout& layout : MemoryLayouts(world.size())) {
      for (bool dense : {false, true}) {
        const std::vector<float> lazy = TrainedBits(world, layout, Kind::kLazy, dense);
        EXPECT_EQ(lazy, TrainedBits(world, layout, Kind::kResident, dense));
        for (const auto& bits : {lazy, TrainedBits(world, layout, Kind::kDevice, dense)}) {
          const std::string mine(reinterpret_cast<const char*>(bits.data()),
                                 bits.size() * sizeof(float));
          const std::vector<std::string> all = world.AllGather(mine);
          for (int r = 0; r < world.size(); ++r) {
            if (layout.memory_coordinate(r) != layout.memory_coordinate(world.rank())) continue;
            EXPECT_EQ(all[static_cast<size_t>(r)], mine);
          }
        }
      }
    }
  });
}

// The processes of mpirun against as many threads of this process.
TEST(RowExchange, ThreadsAndProcessesGiveTheSameBits) {
  OnWorlds([](World& world) {
    for (const Layout& layout : MemoryLayouts(world.size())) {
      for (const Kind kind : {Kind::kLazy, Kind::kDevice}) {
        const std::vector<float> mine = TrainedBits(world, layout, kind, true);
        ThreadWorld::Run(world.size(), [&](World& threads) {
          const std::vector<float> theirs = TrainedBits(threads, layout, kind, true);
          if (threads.rank() == world.rank()) {
            EXPECT_EQ(theirs, mine);
          }
        });
      }
    }
  });
}

TEST(RowExchange, CountsWhatTravels) {
  OnWorlds([](World& world) {
    for (const Kind kind : {Kind::kLazy, Kind::kDevice}) {
      TestStream t;
      const int n = world.size();
      Mesh mesh = MakeMesh(world, {n, 1, n});
      auto table = MakeTable(t.stream, mesh, kind, true);
      std::vector<int64_t> ids;
      for (int64_t i = 0; i < 2 * n; ++i) ids.push_back(i / 2);  // every row twice, one an owner
      table->Fetch(t.stream, Tensor::Wrap(ids.data(), DType::kI64, {2 * n}), DType::kF64)
          .Wait(t.stream);
      const RowTraffic traffic = table->traffic();
      EXPECT_EQ(traffic.requested, 2 * n);
      EXPECT_EQ(traffic.unique, n);
      EXPECT_EQ(traffic.remote, n - 1);
      // A count and an id to each other rank, a row to each that asked.
      EXPECT_EQ(traffic.bytes, (n - 1) * (8 + 8 + kWidth * 8));
      table->ResetTraffic();
      EXPECT_EQ(table->traffic().requested, 0);
    }
  });
}

// Text of a micro-batch of one rank, and the hash that makes rows of it.
struct Text {
  Text(TestStream& t, int rank, int batch) {
    for (int i = 0; i < kTokens; ++i) ids.push_back((i * i + 7 * rank + 13 * batch) % 50);
    hash.orders = {2, 3};
    hash.heads = 1;
    hash.multipliers = {0x3243f6a8885a309, 0x13198a2e0370735, 0x243f6a8885a308d};
    hash.primes = {101, 103};
    hash.offsets = {0, 101};
    for (int v = 0; v < 50; ++v) map.push_back(v);
    start.assign(kTokens, 0);
    const auto wrap = [](std::vector<int32_t>& x) {
      return Tensor::Wrap(x.data(), DType::kI32, {static_cast<int64_t>(x.size())});
    };
    tokens = wrap(ids);
    canonical = wrap(map);
    doc_start = wrap(start);
    rows = Tensor::Empty(t.stream, DType::kI64, {kTokens, 2});
    CpuKernels().ngram_rows(t.stream, hash, tokens, canonical, kTokens, doc_start, rows);
    rows = rows.Reshape({kTokens * 2});
  }
  RowQuery Query() const { return {hash, tokens, canonical, kTokens, doc_start}; }

  static constexpr int kTokens = 40;
  NgramHash hash;
  std::vector<int32_t> ids, map, start;
  Tensor tokens, canonical, doc_start, rows;
};

// The rows of a few texts, each announced `ahead` of its turn; with gradients, owners are told
// then.
void FetchTexts(World& world, const Layout& layout, Kind kind, size_t ahead, bool gradients) {
  constexpr size_t kBatches = 4;
  TestStream t;
  Mesh mesh = MakeMesh(world, layout);
  auto table = MakeTable(t.stream, mesh, kind, false);
  std::vector<Text> texts;
  for (size_t b = 0; b < kBatches; ++b) {
    texts.emplace_back(t, world.rank(), static_cast<int>(b));
  }
  size_t told = 0;
  for (size_t b = 0; b < kBatches; ++b) {
    for (; told < std::min(kBatches, ahead == 0 ? 0 : b + ahead + 1); ++told) {
      table->Announce(t.stream, texts[told].Query());
    }
    const Text& text = texts[b];
    const FetchedRows fetched = table->Fetch(t.stream, text.Query(), DType::kF64).Wait(t.stream);
    for (int64_t i = 0; i < text.rows.elements(); ++i) {
      const Row want = Reference(Spec(false, DType::kF64)).At(text.rows.data<int64_t>()[i]);
      ASSERT_NEAR(fetched.rows.data<double>()[i * kWidth], want.p[0], 1e-12);
    }
    if (!gradients) continue;
    const Shape shape = {text.rows.elements(), kWidth};
    table->PushGradient(t.stream, fetched, Tensor::Zeros(t.stream, DType::kF64, shape));
  }
  if (!gradients) return;
  table->ReduceGradients(t.stream);
  EXPECT_EQ(GlobalSquares(t.stream, mesh, *table), 0);
}

// Announced one ahead, announced all at once or not at all: the rows of the ids that the text has.
TEST(RowExchange, AnnouncedTextsBringTheirOwnRows) {
  OnWorlds([](World& world) {
    for (const Layout& layout : MemoryLayouts(world.size())) {
      for (const Kind kind : {Kind::kLazy, Kind::kDevice}) {
        for (const size_t ahead : {0, 1, 3}) {
          for (const bool gradients : {false, true}) {
            FetchTexts(world, layout, kind, ahead, gradients);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace mneme
