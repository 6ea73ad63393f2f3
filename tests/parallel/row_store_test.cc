#include "parallel/row_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "parallel/resident_size.h"
#include "parallel/row_index.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

RowTableSpec Spec(int64_t rows, bool dense, DType dtype = DType::kF32) {
  RowTableSpec spec;
  spec.name = "blocks.1.engram.table";
  spec.rows = rows;
  spec.width = 5;
  spec.dtype = dtype;
  spec.init = {MakeKey(3, spec.name), 0.5};
  spec.adam.rate_mult = 5.0;
  spec.dense_adam = dense;
  return spec;
}

Tensor Ids(std::vector<int64_t>& ids) {
  return Tensor::Wrap(ids.data(), DType::kI64, {static_cast<int64_t>(ids.size())});
}

// Scalars of update number u.
std::vector<double> StepOf(int u, bool apply = true) {
  std::vector<double> step(kStepScalars);
  step[kStepRate] = 0.01 / u;
  step[kStepBias1] = 1 - std::pow(0.9, u);
  step[kStepBias2] = 1 - std::pow(0.95, u);
  step[kStepClip] = 0.7;
  step[kStepApply] = apply ? 1.0 : 0.0;
  return step;
}
Tensor StepTensor(std::vector<double>& step) {
  return Tensor::Wrap(step.data(), DType::kF64, {kStepScalars});
}

std::unique_ptr<RowStore> Make(Stream& stream, bool resident, const RowTableSpec& spec,
                               RowShare share = {}) {
  if (!resident) return MakeLazyStore(stream, CpuKernels(), spec, share);
  auto store = MakeResidentStore(stream, CpuKernels(), spec, share);
  EXPECT_TRUE(store.ok());
  return *std::move(store);
}

template <class T>
std::vector<T> ReadRows(Stream& stream, RowStore& store, std::vector<int64_t> ids) {
  std::vector<T> out(ids.size() * 5, T{99});
  Tensor values = Tensor::Wrap(out.data(), DTypeOf<T>, {static_cast<int64_t>(ids.size()), 5});
  store.Read(stream, Ids(ids), values);
  return out;
}

// Gradient of a row in an update: any numbers will do.
template <class T>
std::vector<T> GradsOf(const std::vector<int64_t>& ids, int u) {
  std::vector<T> out;
  for (int64_t id : ids) {
    for (int c = 0; c < 5; ++c)
      out.push_back(static_cast<T>(std::sin(static_cast<double>(id) * 1.7 + c * 0.3 + u)));
  }
  return out;
}

template <class T>
void Step(Stream& stream, RowStore& store, std::vector<int64_t> ids, int u, bool apply = true) {
  std::vector<double> step = StepOf(u, apply);
  std::vector<T> grads = GradsOf<T>(ids, u);
  const Tensor g = Tensor::Wrap(grads.data(), DTypeOf<T>, {static_cast<int64_t>(ids.size()), 5});
  store.Update(stream, StepTensor(step), Ids(ids), g);
}

// What the updates should give, row by row, in double (docs/mathematics.md).
struct NaiveRow {
  std::vector<double> p, m = std::vector<double>(5), v = std::vector<double>(5);
};

class Naive {
 public:
  explicit Naive(const RowTableSpec& spec) : spec_(spec) {}

  NaiveRow First(int64_t id) const {
    NaiveRow row;
    for (int c = 0; c < 5; ++c) {
      row.p.push_back(spec_.init.std *
                      RandomNormal(spec_.init.key, static_cast<uint64_t>(id * 5 + c)));
    }
    return row;
  }
  std::vector<double> Value(int64_t id) const {
    const auto it = rows_.find(id);
    return it == rows_.end() ? First(id).p : it->second.p;
  }
  void Step(const std::vector<int64_t>& ids, int u) {
    const std::vector<double> step = StepOf(u);
    const std::vector<double> grads = GradsOf<double>(ids, u);
    std::map<int64_t, const double*> grad_of;
    for (size_t i = 0; i < ids.size(); ++i) {
      grad_of[ids[i]] = &grads[i * 5];
      rows_.try_emplace(ids[i], First(ids[i]));
    }
    for (auto& [id, row] : rows_) {
      const auto it = grad_of.find(id);
      if (it == grad_of.end() && !spec_.dense_adam) continue;
      for (size_t c = 0; c < 5; ++c) {
        const double g = it == grad_of.end() ? 0.0 : step[kStepClip] * it->second[c];
        row.m[c] = 0.9 * row.m[c] + 0.1 * g;
        row.v[c] = 0.95 * row.v[c] + 0.05 * g * g;
        row.p[c] -= step[kStepRate] * 5.0 * (row.m[c] / step[kStepBias1]) /
                    (std::sqrt(row.v[c] / step[kStepBias2]) + 1e-20);
      }
    }
  }

 private:
  RowTableSpec spec_;
  std::map<int64_t, NaiveRow> rows_;
};

// Some rising ids, some of them again in every update.
std::vector<int64_t> TouchedIn(int u) {
  std::vector<int64_t> ids;
  for (int64_t id = u % 3; id < 300; id += 1 + (id * 7 + u) % 9) ids.push_back(id);
  return ids;
}

std::vector<int64_t> AllRows(int64_t n) {
  std::vector<int64_t> ids;
  for (int64_t id = 0; id < n; ++id) ids.push_back(id);
  return ids;
}

class RowStoreTest : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  bool resident() const { return std::get<0>(GetParam()); }
  bool dense() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Stores, RowStoreTest, testing::Combine(testing::Bool(), testing::Bool()));

TEST_P(RowStoreTest, RowsBeginAsAPureFunctionOfTheirNumber) {
  TestStream t;
  auto store = Make(t.stream, resident(), Spec(1000, dense()));
  std::vector<float> want(5);
  FillNormal(MakeKey(3, "blocks.1.engram.table"), 998 * 5, 5, 0.5, want.data());
  EXPECT_EQ(ReadRows<float>(t.stream, *store, {998}), want);
  const std::vector<float> twice = ReadRows<float>(t.stream, *store, {998, 4, 998});
  EXPECT_TRUE(std::equal(want.begin(), want.end(), twice.begin() + 10));
  EXPECT_EQ(store->materialised(true), 0);
}

TEST_P(RowStoreTest, UpdatesFollowAdam) {
  TestStream t;
  const RowTableSpec spec = Spec(300, dense(), DType::kF64);
  auto store = Make(t.stream, resident(), spec);
  Naive naive(spec);
  for (int u = 1; u <= 6; ++u) {
    Step<double>(t.stream, *store, TouchedIn(u), u);
    naive.Step(TouchedIn(u), u);
  }
  const std::vector<double> got = ReadRows<double>(t.stream, *store, AllRows(300));
  for (int64_t id = 0; id < 300; ++id) {
    const std::vector<double> want = naive.Value(id);
    for (int64_t c = 0; c < 5; ++c) {
      EXPECT_NEAR(got[static_cast<size_t>(id * 5 + c)], want[static_cast<size_t>(c)], 1e-13);
    }
  }
}

TEST_P(RowStoreTest, ASkippedStepMovesAndMaterialisesNothing) {
  TestStream t;
  auto store = Make(t.stream, resident(), Spec(300, dense()));
  Step<float>(t.stream, *store, {1, 5}, 1);
  const std::vector<float> before = ReadRows<float>(t.stream, *store, AllRows(300));
  Step<float>(t.stream, *store, {5, 7}, 2, /*apply=*/false);
  EXPECT_EQ(ReadRows<float>(t.stream, *store, AllRows(300)), before);
  EXPECT_EQ(store->materialised(true), 2);
}

// Half of the way, out to another store of another share, and on: as if never interrupted.
TEST_P(RowStoreTest, ExportAndImportCarryTheWholeState) {
  TestStream t;
  const RowTableSpec spec = Spec(300, dense());
  auto whole = Make(t.stream, resident(), spec);
  auto first = Make(t.stream, resident(), spec);
  for (int u = 1; u <= 3; ++u) {
    Step<float>(t.stream, *whole, TouchedIn(u), u);
    Step<float>(t.stream, *first, TouchedIn(u), u);
  }
  const int64_t n = first->materialised(true);
  std::vector<std::unique_ptr<RowStore>> parts;
  for (int64_t phase = 0; phase < 2; ++phase) {
    for (int64_t replica = 0; replica < 3; ++replica) {
      parts.push_back(Make(t.stream, !resident(), spec, {phase, 2, replica, 3}));
    }
  }
  int64_t last_id = -1;
  for (int64_t begin = 0; begin < n; begin += 17) {
    const int64_t count = std::min<int64_t>(17, n - begin);
    Tensor ids = Tensor::Empty(t.stream, DType::kI64, {count});
    Tensor values = Tensor::Empty(t.stream, DType::kF32, {count, 5});
    Tensor m = Tensor::Empty(t.stream, DType::kF32, {count, 5});
    Tensor v = Tensor::Empty(t.stream, DType::kF32, {count, 5});
    first->Export(t.stream, begin, begin + count, ids, values, m, v);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = ids.data<int64_t>()[i];
      EXPECT_GT(id, last_id);
      last_id = id;
      for (auto& part : parts) {
        if (!part->share().holds(id)) continue;
        const bool keeps = part->share().keeps_state(id);
        part->Import(t.stream, ids.Rows(i, i + 1), values.Rows(i, i + 1), m.Rows(i, i + 1),
                     v.Rows(i, i + 1), keeps);
      }
    }
  }
  int64_t with_state = 0;
  for (auto& part : parts) with_state += part->materialised(true);
  EXPECT_EQ(with_state, n);
  for (int u = 4; u <= 5; ++u) {
    Step<float>(t.stream, *whole, TouchedIn(u), u);
    for (auto& part : parts) {
      std::vector<int64_t> mine;
      for (int64_t id : TouchedIn(u)) {
        if (part->share().holds(id) && part->share().keeps_state(id)) mine.push_back(id);
      }
      Step<float>(t.stream, *part, mine, u);
    }
  }
  for (int64_t id = 0; id < 300; ++id) {
    for (auto& part : parts) {
      if (!part->share().holds(id) || !part->share().keeps_state(id)) continue;
      EXPECT_EQ(ReadRows<float>(t.stream, *part, {id}), ReadRows<float>(t.stream, *whole, {id}));
    }
  }
}

TEST_P(RowStoreTest, WritesOfAnotherReplicaAreReadBack) {
  TestStream t;
  auto store = Make(t.stream, resident(), Spec(300, dense()), {1, 2, 0, 2});
  std::vector<int64_t> ids = {3, 7, 299};  // rows 1, 3 and 149 of the share: replica 1 keeps them
  std::vector<float> values = GradsOf<float>(ids, 9);
  store->Write(t.stream, Ids(ids), Tensor::Wrap(values.data(), DType::kF32, {3, 5}));
  EXPECT_EQ(ReadRows<float>(t.stream, *store, ids), values);
  EXPECT_EQ(store->materialised(true), 0);
  EXPECT_EQ(store->materialised(false), 3);
  // Weights without moments (an evaluation) may be of any row.
  std::vector<int64_t> any = {1, 3};
  std::vector<float> other = GradsOf<float>(any, 2);
  store->Import(t.stream, Ids(any), Tensor::Wrap(other.data(), DType::kF32, {2, 5}), Tensor(),
                Tensor(), /*with_state=*/false);
  EXPECT_EQ(ReadRows<float>(t.stream, *store, any), other);
  EXPECT_EQ(store->materialised(true), 1);
}

TEST_P(RowStoreTest, ListsEveryRowWithStateOnce) {
  TestStream t;
  auto store = Make(t.stream, resident(), Spec(300, dense()));
  for (int u = 1; u <= 2; ++u) Step<float>(t.stream, *store, TouchedIn(u), u);
  const int64_t n = store->materialised(true);
  std::map<int64_t, int> seen;
  for (int64_t begin = 0; begin < n; begin += 10) {
    const int64_t end = std::min(n, begin + 10);
    Tensor ids = Tensor::Empty(t.stream, DType::kI64, {end - begin});
    Tensor values = Tensor::Empty(t.stream, DType::kF32, {end - begin, 5});
    store->List(t.stream, begin, end, ids, values);
    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t id = ids.data<int64_t>()[i];
      ++seen[id];
      const std::vector<float> want = ReadRows<float>(t.stream, *store, {id});
      EXPECT_EQ(std::memcmp(values.data<float>() + i * 5, want.data(), 20), 0);
    }
  }
  std::map<int64_t, int> want;
  for (int u = 1; u <= 2; ++u) {
    for (int64_t id : TouchedIn(u)) want[id] = 1;
  }
  EXPECT_EQ(seen, want);
}

TEST(RowStore, LazyAndResidentGiveTheSameBits) {
  for (bool dense : {true, false}) {
    TestStream t;
    auto lazy = Make(t.stream, false, Spec(300, dense));
    auto resident = Make(t.stream, true, Spec(300, dense));
    for (int u = 1; u <= 8; ++u) {
      Step<float>(t.stream, *lazy, TouchedIn(u), u, u != 4);
      Step<float>(t.stream, *resident, TouchedIn(u), u, u != 4);
      EXPECT_EQ(ReadRows<float>(t.stream, *lazy, AllRows(300)),
                ReadRows<float>(t.stream, *resident, AllRows(300)));
    }
    EXPECT_EQ(lazy->materialised(true), resident->materialised(true));
  }
}

// 2·10^11 rows: ids, offsets and draws beyond 32 bits, memory only for what was touched.
TEST(LazyStore, TrainsATableOfTwoHundredBillionRows) {
  TestStream t;
  constexpr int64_t kRows = 200'000'000'000;
  auto store = Make(t.stream, false, Spec(kRows, true));
  EXPECT_LT(store->bytes(), 100'000);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 20'000; ++i) ids.push_back(i * (kRows / 20'000) + 12'345);
  const std::vector<float> before = ReadRows<float>(t.stream, *store, ids);
  std::vector<float> last(5);
  FillNormal(MakeKey(3, "blocks.1.engram.table"), static_cast<uint64_t>(ids.back()) * 5, 5, 0.5,
             last.data());
  EXPECT_TRUE(std::equal(last.begin(), last.end(), before.end() - 5));
  Step<float>(t.stream, *store, ids, 1);
  const std::vector<float> after = ReadRows<float>(t.stream, *store, ids);
  for (size_t i = 0; i < after.size(); ++i) EXPECT_NE(after[i], before[i]);
  EXPECT_EQ(store->materialised(true), 20'000);
  EXPECT_LT(store->bytes(), 20'000 * (3 * 20 + 32) + 100'000);
  EXPECT_EQ(t.allocator.use(MemoryTag::kTables).live + t.allocator.use(MemoryTag::kOptimizer).live,
            store->bytes());
  store.reset();
  EXPECT_EQ(t.allocator.use(MemoryTag::kTables).live, 0);
}

TEST(ResidentStore, RefusesATableThatDoesNotFit) {
  TestStream t;
  RowTableSpec spec = Spec(200'000'000'000, true);
  const auto store = MakeResidentStore(t.stream, CpuKernels(), spec, {});
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(store.status().message());
  EXPECT_THAT(message, testing::HasSubstr("200000000000 resident rows"));
  EXPECT_THAT(message, testing::HasSubstr("GiB"));
  EXPECT_EQ(t.allocator.use(MemoryTag::kTables).peak, 0);
}

TEST(ResidentStore, DecayMovesRowsThatNeverHadAGradient) {
  TestStream t;
  RowTableSpec spec = Spec(300, true, DType::kF64);
  spec.adam.decay = 0.25;
  auto store = Make(t.stream, true, spec);
  const double before = ReadRows<double>(t.stream, *store, {200})[0];
  Step<double>(t.stream, *store, {3}, 1);
  const double after = ReadRows<double>(t.stream, *store, {200})[0];
  EXPECT_NEAR(after, before * (1 - 0.01 * 5.0 * 0.25), 1e-15);  // rate, its multiple, decay
  EXPECT_EQ(store->materialised(true), 300);
}

TEST(ResidentStore, CountsTheRanksOfAHost) {
  const RowTableSpec spec = Spec(1'000'001, true);  // 20 bytes a row
  const RowShare share{1, 2, 0, 2};                 // 500,000 rows, the state of half of them
  EXPECT_EQ(ResidentRows(spec, share).kept, 250'000);
  EXPECT_EQ(ResidentRows(spec, share).mirrored, 250'000);
  EXPECT_EQ(ResidentRows(spec, {0, 2, 0, 2}).kept, 250'001);
  const double bytes = 250'000 * 20.0 * 4 + 500'000 / 8.0;
  EXPECT_EQ(ResidentBytes(spec, share), bytes);
  const HostMemory memory{static_cast<int64_t>(bytes * 4), "/proc/meminfo"};
  EXPECT_TRUE(CheckResidentFits(spec, share, 4, memory).ok());
  EXPECT_FALSE(CheckResidentFits(spec, share, 5, memory).ok());
}

TEST(RowIndex, FindsWhatWasInsertedThroughManyGrowths) {
  RowIndex index;
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 100'000; ++i) ids.push_back((i * i * 7919 + i) % 200'000'000'000);
  std::map<int64_t, int64_t> want;
  std::vector<int64_t> slots(ids.size());
  for (size_t begin = 0; begin < ids.size(); begin += 777) {
    const size_t count = std::min<size_t>(777, ids.size() - begin);
    index.FindOrInsert(absl::MakeSpan(ids).subspan(begin, count), slots.data() + begin);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto [it, fresh] = want.try_emplace(ids[i], static_cast<int64_t>(want.size()));
    ASSERT_EQ(slots[i], it->second);
    ASSERT_EQ(index.id(slots[i]), ids[i]);
  }
  EXPECT_EQ(index.size(), static_cast<int64_t>(want.size()));
  std::vector<int64_t> strangers;
  for (int64_t i = 0; i < 1000; ++i) {
    if (want.count(i * 3 + 1) == 0) strangers.push_back(i * 3 + 1);
  }
  std::vector<int64_t> none(strangers.size());
  index.Find(strangers, none.data());
  for (int64_t slot : none) EXPECT_EQ(slot, -1);
  index.Clear();
  index.Find(ids, slots.data());
  for (int64_t slot : slots) ASSERT_EQ(slot, -1);
}

}  // namespace
}  // namespace mneme
