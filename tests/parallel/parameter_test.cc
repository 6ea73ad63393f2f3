#include "parallel/parameter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "parallel/reduce.h"
#include "parallel/region_cut.h"
#include "tests/parallel/ranks.h"
#include "tests/rounding.h"

namespace mneme {
namespace {

Piece Matrix(std::string name, int64_t rows, int64_t cols) {
  Piece piece;
  piece.name = std::move(name);
  piece.rows = rows;
  piece.cols = cols;
  piece.init = Init::Normal(0.5);
  return piece;
}

constexpr int64_t kExperts = 5;

// Odd sizes; a fused parameter of two pieces; experts of this rank only.
void DeclareModel(ParameterStore& store, const Layout& layout, int rank) {
  store.Declare("embedding", {37, 5}, View::kDense, UpdateKind::kAdamW,
                {Matrix("embedding", 37, 5)});
  store.Declare("attention.qk", {7, 6}, View::kDense, UpdateKind::kMuon,
                {Matrix("attention.q", 4, 6), Matrix("attention.k", 3, 6)});
  Piece gain = Matrix("norm", 1, 11);
  gain.init = Init::Constant(1.0);
  store.Declare("norm", {11}, View::kDense, UpdateKind::kAdamW, {gain});
  Piece scale = Matrix("scale", 1, 3);
  scale.init = Init::Values({1.5, -2.5, 0.25});
  store.Declare("scale", {3}, View::kDense, UpdateKind::kAdamW, {scale});
  store.Declare("attention.out", {9, 9}, View::kDense, UpdateKind::kMuon,
                {Matrix("attention.out", 9, 9)});
  const Range local = PartOf(kExperts, layout.expert, layout.expert_coordinate(rank));
  std::vector<Piece> experts;
  for (int64_t e = local.begin; e < local.end; ++e) {
    experts.push_back(Matrix("experts." + std::to_string(e), 3, 7));
  }
  store.Declare("experts", {local.size(), 3, 7}, View::kExpert, UpdateKind::kMuon, experts);
}

std::vector<Layout> LayoutsOf(int world) {
  std::vector<Layout> out;
  for (int expert = 1; expert <= std::min<int>(world, kExperts); ++expert) {
    if (world % expert == 0) out.push_back({world, expert, 1});
  }
  return out;
}

using Values = std::map<std::string, std::vector<float>>;

Values ValuesByName(const ParameterStore& store) {
  Values out;
  for (const auto& parameter : store.parameters()) {
    for (const Piece& piece : parameter->pieces) {
      const float* from = parameter->value.data<float>() + piece.offset;
      out[piece.name] = std::vector<float>(from, from + piece.elements());
    }
  }
  return out;
}

TEST(ParameterStore, InitialValuesDependOnNamesOnly) {
  TestStream t;
  ParameterStore whole;
  DeclareModel(whole, {1, 1, 1}, 0);
  whole.Allocate(t.stream, DType::kF32, {1, 1, 1}, 0);
  whole.Initialize(t.stream, CpuKernels(), 17);
  const Values want = ValuesByName(whole);
  EXPECT_EQ(want.at("norm"), std::vector<float>(11, 1.0f));
  EXPECT_EQ(want.at("scale"), (std::vector<float>{1.5f, -2.5f, 0.25f}));
  std::vector<float> q(24);
  FillNormal(MakeKey(17, "attention.q"), 0, 24, 0.5, q.data());
  EXPECT_EQ(want.at("attention.q"), q);
  EXPECT_NE(want.at("experts.0"), want.at("experts.1"));
  for (const Layout& layout : LayoutsOf(4)) {
    Values got;
    for (int rank = 0; rank < layout.world; ++rank) {
      ParameterStore store;
      DeclareModel(store, layout, rank);
      store.Allocate(t.stream, DType::kF32, layout, rank);
      store.Initialize(t.stream, CpuKernels(), 17);
      for (auto& [name, values] : ValuesByName(store)) {
        EXPECT_EQ(values, want.at(name)) << name;
        got[name] = values;
      }
    }
    EXPECT_EQ(got.size(), want.size());
  }
}

// In bf16 every rank has all rounded values, and accurate ones of what it owns and of what is read
// accurately: the bits of one rank, on every layout.
TEST(ParameterStore, MastersStandWithTheirOwners) {
  TestStream t;
  const auto declare = [](ParameterStore& store, const Layout& layout, int rank) {
    store.Declare("gain", {11}, View::kDense, UpdateKind::kAdamW, {Matrix("gain", 1, 11)},
                  Reading::kAccurate);
    // More than is drawn at once, and no multiple of it.
    store.Declare("large", {1051, 1003}, View::kDense, UpdateKind::kAdamW,
                  {Matrix("large", 1051, 1003)});
    DeclareModel(store, layout, rank);
  };
  Values drawn;
  const auto draws = [&](const Piece& piece) -> const std::vector<float>& {
    std::vector<float>& want = drawn[piece.name];
    if (!want.empty()) return want;
    want.resize(static_cast<size_t>(piece.elements()));
    switch (piece.init.kind) {
      case Init::Kind::kConstant:
        std::fill(want.begin(), want.end(), static_cast<float>(piece.init.value));
        break;
      case Init::Kind::kNormal:
        FillNormal(MakeKey(17, piece.name), 0, piece.elements(), piece.init.value, want.data());
        break;
      case Init::Kind::kValues:
        want.assign(piece.init.values.begin(), piece.init.values.end());
    }
    return want;
  };
  for (const int world : {1, 4}) {
    for (const Layout& layout : LayoutsOf(world)) {
      std::map<std::string, int64_t> masters;  // piece -> elements over all ranks
      std::map<std::string, int64_t> holders;  // piece -> ranks that have it
      for (int rank = 0; rank < world; ++rank) {
        ParameterStore store;
        declare(store, layout, rank);
        store.Allocate(t.stream, DType::kBf16, layout, rank);
        store.Initialize(t.stream, test::RoundingKernels(), 17);
        for (const auto& parameter : store.parameters()) {
          for (const Piece& piece : parameter->pieces) {
            const std::vector<float>& want = draws(piece);
            ++holders[piece.name];
            for (int64_t i = 0; i < piece.elements(); ++i) {
              const float exact = want[static_cast<size_t>(i)];
              const int64_t at = piece.offset + i;
              if (parameter->reading == Reading::kAccurate) {
                ASSERT_EQ(parameter->value.data<float>()[at], exact) << piece.name;
              } else {
                ASSERT_EQ(parameter->value.data<BFloat16>()[at].bits, BFloat16(exact).bits)
                    << piece.name << " on " << world;
              }
            }
          }
        }
        for (Region* region : store.regions()) {
          EXPECT_EQ(region->master.elements(), region->owned.size());
          EXPECT_EQ(region->read.elements(), region->elements);
          for (const Region::Slice& slice : region->Slices(region->owned)) {
            const Piece& piece = *slice.piece;
            const std::vector<float>& want = draws(piece);
            const int64_t first = slice.row_begin * piece.cols;
            const int64_t count = (slice.row_end - slice.row_begin) * piece.cols;
            const float* master =
                region->master.data<float>() + slice.region_begin - region->owned.begin;
            masters[piece.name] += count;
            for (int64_t i = 0; i < count; ++i)
              ASSERT_EQ(master[i], want[static_cast<size_t>(first + i)]) << piece.name;
          }
        }
      }
      for (const auto& [name, count] : masters) {
        EXPECT_GT(count, 0) << name;
        const bool expert = name.starts_with("experts.");
        EXPECT_EQ(holders[name], expert ? layout.expert_replicas() : world) << name;
      }
      EXPECT_EQ(masters.size(), holders.size());
      EXPECT_EQ(masters["large"], 1051 * 1003);
    }
  }
}

TEST(ParameterStore, ParametersAreViewsOfTheirRegion) {
  TestStream t;
  ParameterStore store;
  DeclareModel(store, {1, 1, 1}, 0);
  store.Allocate(t.stream, DType::kF64, {1, 1, 1}, 0);
  for (const auto& parameter : store.parameters()) {
    Region& region = store.region(parameter->view, parameter->kind, Reading::kAccurate);
    EXPECT_EQ(parameter->region_offset % kParameterAlignment, 0);
    EXPECT_EQ(parameter->value.data<double>(),
              region.read.data<double>() + parameter->region_offset);
    EXPECT_EQ(region.master.data<double>(), region.read.data<double>() + region.owned.begin)
        << "no second copy";
    parameter->grad.data<double>()[0] = 3.0;
    EXPECT_EQ(region.grad.data<double>()[parameter->region_offset], 3.0);
  }
  store.ZeroGradients(t.stream);
  for (Region* region : store.regions()) {
    for (int64_t i = 0; i < region->grad.elements(); ++i) {
      EXPECT_EQ(region->grad.data<double>()[i], 0.0);
    }
  }
}

// On every layout: the members' ranges cover the region, matrices and vectors stay whole, and the
// slices of all members name every row of every piece once.
TEST(ParameterStore, OwnersShareEveryRowOnce) {
  TestStream t;
  for (int world : {1, 2, 3, 4, 6, 12, 64}) {
    for (const Layout& layout : LayoutsOf(world)) {
      std::map<std::string, std::vector<int>> seen;  // piece -> times each row is owned
      for (int rank = 0; rank < world; ++rank) {
        ParameterStore store;
        DeclareModel(store, layout, rank);
        store.Allocate(t.stream, DType::kF32, layout, rank);
        for (Region* region : store.regions()) {
          int64_t total = 0;
          for (int64_t count : region->counts) {
            EXPECT_GE(count, 0);
            total += count;
          }
          EXPECT_EQ(total, region->elements);
          for (const Region::Slice& slice : region->Slices(region->owned)) {
            if (region->kind == UpdateKind::kMuon || slice.piece->rows == 1) {
              EXPECT_EQ(slice.row_begin, 0);
              EXPECT_EQ(slice.row_end, slice.piece->rows);
            }
            EXPECT_EQ(slice.region_begin, slice.parameter->region_offset + slice.piece->offset +
                                              slice.row_begin * slice.piece->cols);
            std::vector<int>& rows = seen[slice.piece->name];
            rows.resize(static_cast<size_t>(slice.piece->rows));
            for (int64_t r = slice.row_begin; r < slice.row_end; ++r)
              ++rows[static_cast<size_t>(r)];
          }
        }
      }
      EXPECT_EQ(seen.size(), 11u);
      for (const auto& [name, rows] : seen) {
        for (int times : rows) EXPECT_EQ(times, 1) << name << " on " << world;
      }
    }
  }
}

TEST(RegionCut, BalancesTheCostOfMatrices) {
  // Costs 5 1 1 1 4 over three: {5}, {1 1 1}, {4} is the best that contiguous ranges can do.
  const std::vector<Stretch> stretches = {
      {0, 10, 10, 5}, {16, 2, 2, 1}, {32, 2, 2, 1}, {48, 2, 2, 1}, {64, 8, 8, 4}};
  EXPECT_EQ(CutByCost(stretches, 80, 3), (std::vector<int64_t>{16, 48, 16}));
  EXPECT_EQ(CutByCost(stretches, 80, 1), (std::vector<int64_t>{80}));
  const std::vector<int64_t> many = CutByCost(stretches, 80, 7);  // more members than matrices
  EXPECT_EQ(many.size(), 7u);
  EXPECT_EQ(many[0], 16);
  EXPECT_EQ(CutByCost({}, 0, 3), (std::vector<int64_t>{0, 0, 0}));
}

TEST(RegionCut, CutsRowsNearEqualShares) {
  const std::vector<Stretch> stretches = {{0, 100, 10, 0}, {112, 7, 7, 0}};
  EXPECT_EQ(CutByElements(stretches, 128, 2), (std::vector<int64_t>{60, 68}));
  const std::vector<int64_t> four = CutByElements(stretches, 128, 4);
  EXPECT_EQ(four, (std::vector<int64_t>{30, 30, 52, 16}));
  EXPECT_EQ(CutByElements({}, 0, 2), (std::vector<int64_t>{0, 0}));
}

// A region is cut from its end, at parameters, and whole.
TEST(Reduce, BucketsAreWholeNeighboursFromTheEnd) {
  TestStream t;
  ParameterStore store;
  for (const int64_t rows : {5, 1, 2, 2, 9}) {
    const std::string name = "m" + std::to_string(store.parameters().size());
    store.Declare(name, {rows, 16}, View::kDense, UpdateKind::kMuon, {Matrix(name, rows, 16)});
  }
  store.Allocate(t.stream, DType::kF32, Layout{1, 1, 1}, 0);
  Region& region = store.region(View::kDense, UpdateKind::kMuon, Reading::kAccurate);
  const auto cut = [&](int64_t bytes) {
    std::vector<std::vector<int64_t>> rows;
    for (const GradientBucket& bucket : BucketsOf(region, bytes)) {
      rows.push_back({bucket.range.begin / 16, bucket.range.end / 16,
                      static_cast<int64_t>(bucket.parameters.size())});
    }
    return rows;
  };
  constexpr int64_t kRow = 16 * sizeof(float);
  using Rows = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(cut(1), (Rows{{10, 19, 1}, {8, 10, 1}, {6, 8, 1}, {5, 6, 1}, {0, 5, 1}}));
  EXPECT_EQ(cut(3 * kRow), (Rows{{10, 19, 1}, {6, 10, 2}, {0, 6, 2}}));
  EXPECT_EQ(cut(6 * kRow), (Rows{{10, 19, 1}, {0, 10, 4}}));
  EXPECT_EQ(cut(100 * kRow), (Rows{{0, 19, 5}}));
  EXPECT_TRUE(
      BucketsOf(store.region(View::kExpert, UpdateKind::kMuon, Reading::kAccurate), 1).empty());
}

// Gradients of all ranks end summed at the owner, whether a bucket sets out when its last parameter
// is final or at the end, step after step; values of the owner end on all.
TEST(Reduce, SumsGradientsAtTheirOwnersAndBringsValuesBack) {
  OnWorlds([](World& world) {
    for (const Layout& layout : LayoutsOf(world.size())) {
      TestStream t;
      Mesh mesh = MakeMesh(world, layout);
      ParameterStore store;
      DeclareModel(store, layout, world.rank());
      store.Allocate(t.stream, DType::kF32, layout, world.rank());
      GradientReduction reduction(mesh, store, /*bucket_bytes=*/200);
      for (const bool told : {false, true, true}) {
        for (Region* region : store.regions()) {
          for (int64_t i = 0; i < region->grad.elements(); ++i) {
            region->grad.data<float>()[i] = static_cast<float>((world.rank() + 1) * (i % 13));
            region->read.data<float>()[i] = -1.0f;
          }
        }
        for (size_t i = store.parameters().size(); told && i-- > 1;) {  // of one nobody tells
          Parameter* parameter = store.parameters()[i].get();
          reduction.Final(t.stream, {&parameter, 1});
        }
        reduction.Finish(t.stream);
        for (Region* region : store.regions()) {
          const bool dense = region->view == View::kDense;
          int64_t weight = 0;  // Σ (rank + 1) over those that hold the same parameters
          for (int r = 0; r < world.size(); ++r) {
            const bool like = layout.expert_coordinate(r) == layout.expert_coordinate(world.rank());
            if (dense || like) weight += r + 1;
          }
          for (int64_t i = region->owned.begin; i < region->owned.end; ++i) {
            ASSERT_EQ(region->grad.data<float>()[i], static_cast<float>(weight * (i % 13)));
            region->master.data<float>()[i - region->owned.begin] = static_cast<float>(i);
          }
        }
      }
      for (Region* region : store.regions()) {
        GatherRead(t.stream, mesh, *region).Join();
        for (int64_t i = 0; i < region->elements; ++i) {
          EXPECT_EQ(region->read.data<float>()[i], static_cast<float>(i));
        }
      }
    }
  });
}

// In bf16 every rank ends a step with what its kernels read, rounded and accurate values.
TEST(Reduce, BringsBackWhatIsRead) {
  OnWorlds([](World& world) {
    for (const int vectors : {0, 1, 40}) {
      TestStream t;
      const Layout layout = {world.size(), 1, 1};
      Mesh mesh = MakeMesh(world, layout);
      ParameterStore store;
      for (int i = 0; i < vectors; ++i) {
        const std::string gain = "gain." + std::to_string(i);
        const std::string table = "table." + std::to_string(i);
        store.Declare(gain, {11}, View::kDense, UpdateKind::kAdamW, {Matrix(gain, 1, 11)},
                      Reading::kAccurate);
        store.Declare(table, {4, 3}, View::kDense, UpdateKind::kAdamW, {Matrix(table, 4, 3)});
      }
      store.Declare("matrix", {9, 9}, View::kDense, UpdateKind::kMuon, {Matrix("matrix", 9, 9)});
      store.Allocate(t.stream, DType::kBf16, layout, world.rank());
      const auto value_at = [](int64_t i) { return static_cast<float>(i) + 0.53125f; };
      for (Region* region : store.regions()) {
        for (int64_t i = region->owned.begin; i < region->owned.end; ++i)
          region->master.data<float>()[i - region->owned.begin] = value_at(i);
      }
      store.RoundMasters(t.stream, test::RoundingKernels());
      for (Region* region : store.regions()) GatherRead(t.stream, mesh, *region).Join();
      for (const auto& parameter : store.parameters()) {
        for (int64_t i = 0; i < parameter->value.elements(); ++i) {
          const float want = value_at(parameter->region_offset + i);
          if (parameter->reading == Reading::kAccurate) {
            ASSERT_EQ(parameter->value.data<float>()[i], want) << parameter->name;
          } else {
            ASSERT_EQ(parameter->value.data<BFloat16>()[i].bits, BFloat16(want).bits)
                << parameter->name;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace mneme
