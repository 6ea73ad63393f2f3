#include "kernels/ops/table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

// Requests of a step: `parts` micro-batches of n ids over a table. hot: that share of them asks for
// one row.
struct Requests {
  int64_t parts, n, rows, width;
  double hot = 0;
};

std::vector<int64_t> IdsOf(const Requests& s, int64_t part) {
  std::vector<int64_t> ids;
  const RandomKey key = MakeKey(7, "ids");
  for (int64_t i = 0; i < s.n; ++i) {
    const auto draw = static_cast<uint64_t>(2 * (part * s.n + i));
    const bool hot = RandomUniform(key, draw + 1) < s.hot;
    ids.push_back(hot ? s.rows / 2 : RandomInt(key, draw, s.rows));
  }
  return ids;
}

std::vector<double> StepOf(bool apply) {
  std::vector<double> step(kStepScalars);
  step[kStepRate] = 0.01;
  step[kStepBias1] = 0.4;
  step[kStepBias2] = 0.3;
  step[kStepClip] = 0.5;
  step[kStepApply] = apply ? 1.0 : 0.0;
  return step;
}

OpCase Update(const Requests& s, bool dense, bool apply = true, double decay = 0) {
  OpCase c("adam_groups");
  for (int64_t p = 0; p < s.parts; ++p) {
    c.Integers("ids" + std::to_string(p), DType::kI64, {s.n}, IdsOf(s, p));
    c.Fixed("g" + std::to_string(p), {s.n, s.width});
  }
  c.FixedF64("step", {kStepScalars},
             [=](int64_t i) { return StepOf(apply)[static_cast<size_t>(i)]; });
  c.NoteOf("keys", DType::kI32, {s.parts * s.n});
  c.NoteOf("order", DType::kI32, {s.parts * s.n});
  c.NoteOf("distinct", DType::kI64, {1});
  c.SumOf("seen", DType::kI64, {2});
  c.SumOf("squares", DType::kF64, {1});
  c.SumOf("marks", DType::kI32, {(s.rows + 31) / 32});  // row 1 of every word from the start
  for (const char* name : {"m", "v", "p"}) c.Sum(name, {s.rows, s.width});
  c.Accurate({"m", "v", "p"});
  c.tolerance = 3e-5;  // thousands of numbers are added one after the other
  AdamOptions options;
  options.decay = decay;
  options.rate_mult = 5;
  c.forward = [=](OpRun& r) {
    std::vector<Tensor> ids, grads;
    for (int64_t p = 0; p < s.parts; ++p) {
      ids.push_back(r["ids" + std::to_string(p)]);
      grads.push_back(r["g" + std::to_string(p)]);
    }
    RowGroups groups;
    r.kernels.group_rows(r.stream, ids, s.rows, groups, r["seen"]);
    r.kernels.copy(r.stream, groups.keys, r["keys"]);
    r.kernels.copy(r.stream, groups.order, r["order"]);
    r.kernels.copy(r.stream, groups.count, r["distinct"]);
    r.kernels.sum_groups(r.stream, grads, groups, r["squares"]);
    r.kernels.adam_groups(r.stream, options, dense, r["step"], grads, groups, r["marks"], r["m"],
                          r["v"], r["p"]);
  };
  return c;
}

TEST(TableTest, UpdatesAnswerAll) {
  for (const bool dense : {false, true}) {
    CheckOp(Update({1, 1, 1, 1}, dense));
    CheckOp(Update({2, 7, 5, 3}, dense));
    CheckOp(Update({3, 137, 40, 80}, dense));
    CheckOp(Update({2, 300, 1000, 12}, dense, true, 0.1));
    CheckOp(Update({1, 50, 60, 8}, dense, /*apply=*/false));
  }
}

// Groups that cross teams, tiles and many tiles; widths of one lane, of odd lanes and of several
// slabs.
TEST(TableTest, HotRowsAnswerAll) {
  CheckOp(Update({1, 5000, 300, 80, 0.5}, false));
  CheckOp(Update({2, 40000, 2000, 16, 0.8}, false));
  CheckOp(Update({1, 30000, 7, 4, 0.9}, true));
  CheckOp(Update({1, 3000, 50, 33, 0.4}, false));
  CheckOp(Update({1, 700, 20, 2080, 0.3}, false));
  CheckOp(Update({1, 2600, 1, 40}, false));
}

TEST(TableTest, AgreesWithSumsByHand) {
  const Requests s{2, 60, 9, 3};
  OpCase c = Update(s, false);
  const auto forward = c.forward;
  c.forward = [&](OpRun& r) {
    forward(r);
    std::vector<double> sums(27, 0.0);
    std::vector<bool> asked(9);
    for (int64_t part = 0; part < 2; ++part) {
      const auto ids = IdsOf(s, part);
      const auto g = Values(r["g" + std::to_string(part)]);
      for (size_t i = 0; i < g.size(); ++i) {
        sums[static_cast<size_t>(ids[i / 3]) * 3 + i % 3] += g[i];
        asked[static_cast<size_t>(ids[i / 3])] = true;
      }
    }
    double squares = 2;  // where the harness starts
    for (const double x : sums) squares += x * x;
    EXPECT_NEAR(Values(r["squares"])[0], squares, 1e-10 * squares);
    EXPECT_EQ(Values(r["distinct"])[0], std::count(asked.begin(), asked.end(), true));
    const auto m = Values(r["m"]), p = Values(r["p"]);
    for (size_t i = 0; i < sums.size(); ++i) {
      const double now = 0.9 * 0.75 + 0.1 * 0.5 * sums[i];
      EXPECT_NEAR(m[i], asked[i / 3] ? now : 0.75, 1e-14);
      EXPECT_EQ(p[i] != 0.75, asked[i / 3]);
    }
  };
  ExpectBounds(c, CpuKernels(), DType::kF64);
}

OpCase Gathered(int64_t tokens, int64_t length, int64_t heads, int64_t width) {
  NgramHash hash;
  hash.orders = {2, 3};
  hash.heads = heads;
  hash.pad = 1;
  hash.multipliers = {0x3243f6a8885a309, 0x13198a2e0370735, 0x243f6a8885a308d};
  for (int64_t k = 0; k < 2 * heads; ++k) {
    hash.primes.push_back(101 + 2 * k);
    hash.offsets.push_back(k == 0 ? 0 : hash.offsets.back() + hash.primes[size_t(k) - 1]);
  }
  const int64_t rows = hash.offsets.back() + hash.primes.back();
  std::vector<int64_t> ids, map, start;
  for (int64_t t = 0; t < tokens; ++t) {
    ids.push_back(RandomInt(MakeKey(1, "tokens"), static_cast<uint64_t>(t), 50));
    start.push_back(t % length / 5 * 5);
  }
  for (int64_t v = 0; v < 50; ++v) map.push_back(v / 2);
  OpCase c("ngram_gather");
  c.Integers("tokens", DType::kI32, {tokens}, ids);
  c.Integers("canonical", DType::kI32, {50}, map);
  c.Integers("doc_start", DType::kI32, {tokens}, start);
  c.Fixed("table", {rows, width});
  c.NoteOf("rows", DType::kI64, {tokens, 2 * heads});
  c.Output("out", {tokens * 2 * heads, width});
  c.Accurate({"table"});
  c.forward = [=](OpRun& r) {
    r.kernels.ngram_gather(r.stream, hash, r["tokens"], r["canonical"], length, r["doc_start"],
                           r["table"], r["rows"], r["out"]);
  };
  return c;
}

TEST(TableTest, RowsByHashAnswerAll) {
  CheckOp(Gathered(1, 1, 1, 1));
  CheckOp(Gathered(21, 7, 3, 5));
  CheckOp(Gathered(400, 100, 8, 80));
  CheckOp(Gathered(60, 20, 40, 12));  // more sub-tables than one launch takes
}

OpCase Put(int64_t rows, int64_t width, int64_t n) {
  OpCase c("put_rows");
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(Permute(MakeKey(1, "put"), i, rows));
  c.Integers("ids", DType::kI64, {n}, ids);
  c.Fixed("rows", {n, width});
  c.Sum("table", {rows, width});
  c.SumOf("marks", DType::kI32, {(rows + 31) / 32});
  c.NoteOf("count", DType::kI64, {1});
  c.Accurate({"rows", "table"});
  c.forward = [](OpRun& r) {
    r.kernels.put_rows(r.stream, r["rows"], r["ids"], r["table"]);
    r.kernels.mark_rows(r.stream, r["ids"], r["marks"]);
    r.kernels.count_marks(r.stream, r["marks"], r["count"]);
  };
  return c;
}

TEST(TableTest, RowsArePutAndMarked) {
  CheckOp(Put(1, 1, 1));
  CheckOp(Put(137, 5, 40));
  CheckOp(Put(200'000, 3, 7000));
}

// To the bit, from even and odd draws, the far tails included.
TEST(TableTest, FirstValuesAreTheGeneratorsOwn) {
  const RandomKey key = MakeKey(3, "blocks.1.engram.table");
  const int64_t n = 100'001;
  for (const uint64_t first : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 40}) {
    std::vector<float> want(static_cast<size_t>(n));
    FillNormal(key, first, n, 0.02, want.data());
    Allocator allocator{Device{}};
    Stream cpu{Device{}, allocator};
    Stream& stream = TestingGpu() ? GpuStream() : cpu;
    Tensor got = Tensor::Empty(stream, DType::kF32, {n});
    (TestingGpu() ? *GpuKernels() : CpuKernels()).normal_rows(stream, key, first, 0.02, got);
    const std::string bytes = Bytes(got);
    EXPECT_EQ(bytes, std::string(reinterpret_cast<const char*>(want.data()), bytes.size()));
  }
}

}  // namespace
}  // namespace mneme::test
