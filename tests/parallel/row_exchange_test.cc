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
    ASSERT_EQ(fetched.ids.data<int64_t>()[inverse[i]], ids[static_cast<size_t>(i)]);
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

std::unique_ptr<RowExchange> MakeTable(Stream& stream, Mesh& mesh, bool resident, bool dense,
                                       DType dtype = DType::kF64) {
  auto store = MakeRowStore(stream, CpuKernels(), mesh, Spec(dense, dtype), resident);
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

void TrainLikeTheReference(World& world, const Layout& layout, bool resident, bool dense) {
  TestStream t;
  Mesh mesh = MakeMesh(world, layout);
  auto table = MakeTable(t.stream, mesh, resident, dense);
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
  EXPECT_EQ(world.Sum(table->store().materialised(false)),
            reference.materialised() * layout.memory_replicas());
  MicroBatch(t.stream, *table, reference, 7, {0, kSequences});
}

TEST(RowExchange, TrainsLikeOneTableOnEveryLayout) {
  OnWorlds([](World& world) {
    for (const Layout& layout : MemoryLayouts(world.size())) {
      for (bool resident : {false, true}) {
        for (bool dense : {false, true}) TrainLikeTheReference(world, layout, resident, dense);
      }
    }
  });
}

// A few steps in float: the bits of every row that a rank holds.
std::vector<float> TrainedBits(World& world, const Layout& layout, bool resident, bool dense) {
  TestStream t;
  Mesh mesh = MakeMesh(world, layout);
  auto table = MakeTable(t.stream, mesh, resident, dense, DType::kF32);
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
        const std::vector<float> lazy = TrainedBits(world, layout, false, dense);
        EXPECT_EQ(lazy, TrainedBits(world, layout, true, dense));
        const std::string mine(reinterpret_cast<const char*>(lazy.data()),
                               lazy.size() * sizeof(float));
        const std::vector<std::string> all = world.AllGather(mine);
        for (int r = 0; r < world.size(); ++r) {
          if (layout.memory_coordinate(r) != layout.memory_coordinate(world.rank())) continue;
          EXPECT_EQ(all[static_cast<size_t>(r)], mine);
        }
      }
    }
  });
}

// The processes of mpirun against as many threads of this process.
TEST(RowExchange, ThreadsAndProcessesGiveTheSameBits) {
  OnWorlds([](World& world) {
    for (const Layout& layout : MemoryLayouts(world.size())) {
      const std::vector<float> mine = TrainedBits(world, layout, false, true);
      ThreadWorld::Run(world.size(), [&](World& threads) {
        const std::vector<float> theirs = TrainedBits(threads, layout, false, true);
        if (threads.rank() == world.rank()) {
          EXPECT_EQ(theirs, mine);
        }
      });
    }
  });
}

TEST(RowExchange, CountsWhatTravels) {
  OnWorlds([](World& world) {
    TestStream t;
    const int n = world.size();
    Mesh mesh = MakeMesh(world, {n, 1, n});
    auto table = MakeTable(t.stream, mesh, false, true);
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
  });
}

}  // namespace
}  // namespace mneme
