#include "kernels/ops/rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

std::vector<int64_t> RandomIds(int64_t n, int64_t rows) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < n; ++i) {
    ids.push_back(RandomInt(MakeKey(5, "ids"), static_cast<uint64_t>(i), rows));
  }
  return ids;
}

OpCase Lookup(int64_t rows, int64_t width, int64_t n, DType id_type, bool accurate = false) {
  OpCase c("gather_rows");
  c.Weight("table", {rows, width});
  c.Integers("ids", id_type, {n}, RandomIds(n, rows));
  c.Output("out", {n, width});
  if (accurate) c.Accurate({"table"});
  c.forward = [](OpRun& r) { r.kernels.gather_rows(r.stream, r["table"], r["ids"], r["out"]); };
  c.backward = [](OpRun& r) {
    r.kernels.scatter_add_rows(r.stream, r["dout"], r["ids"], r["dtable"]);
  };
  return c;
}

TEST(RowsTest, GatherAndScatterAnswerAll) {
  CheckOp(Lookup(1, 1, 1, DType::kI32));
  CheckOp(Lookup(11, 7, 23, DType::kI64));
  CheckOp(Lookup(5, 33, 2000, DType::kI32));  // enough for a team
  CheckOp(Lookup(40, 80, 900, DType::kI64));
  CheckOp(Lookup(40, 80, 900, DType::kI64, true));  // f32 rows for bf16 activations
  CheckOp(Lookup(9, 5, 70, DType::kI32, true));
  CheckOp(Lookup(40, 20, 300, DType::kI64, true));
  CheckOpOnGpu(Lookup(3, 2560, 4000, DType::kI32));  // hot rows of several slabs
}

TEST(RowsTest, GatherPicksTheRowAndScatterAddsInOrder) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  float table[] = {1, 2, 3, 4, 5, 6};
  int64_t ids[] = {2, 0, 2};
  float out[6];
  Tensor t = Tensor::Wrap(table, DType::kF32, {3, 2});
  Tensor o = Tensor::Wrap(out, DType::kF32, {3, 2});
  const Tensor id = Tensor::Wrap(ids, DType::kI64, {3});
  CpuKernels().gather_rows(stream, t, id, o);
  EXPECT_EQ(Values(o), (std::vector<double>{5, 6, 1, 2, 5, 6}));
  // 1e8 + 1 − 1e8 in rising order is 0 in floats; in another order it is 1.
  table[4] = 1e8f;
  out[0] = 1;
  out[4] = -1e8f;
  CpuKernels().scatter_add_rows(stream, o, id, t);
  EXPECT_EQ(table[4], 0);
  EXPECT_EQ(table[0], 2);
}

// unique has its first Σ counts places written; here the others are 0.
OpCase Unique(int64_t rows, int64_t owners, int64_t n, std::vector<int64_t> ids) {
  OpCase c("unique_ids");
  c.Integers("ids", DType::kI64, {n}, std::move(ids));
  c.NoteOf("unique", DType::kI64, {n});
  c.NoteOf("inverse", DType::kI32, {n});
  c.NoteOf("order", DType::kI32, {n});
  c.NoteOf("counts", DType::kI64, {owners});
  c.forward = [rows](OpRun& r) {
    Zero(r.stream, r["unique"]);
    r.kernels.unique_ids(r.stream, r["ids"], rows, r["unique"], r["inverse"], r["order"],
                         r["counts"]);
  };
  return c;
}
OpCase Unique(int64_t rows, int64_t owners, int64_t n) {
  return Unique(rows, owners, n, RandomIds(n, rows));
}

TEST(RowsTest, UniqueIdsAnswerAll) {
  CheckOp(Unique(1, 1, 1));
  CheckOp(Unique(97, 1, 137));
  CheckOp(Unique(97, 4, 5000));
  CheckOp(Unique(5, 8, 300));  // owners without rows
  CheckOp(Unique(200'000, 3, 40'000));
  CheckOp(Unique(int64_t{1} << 40, 2, 3000));  // more rows than 32 bits number
  CheckOp(Unique(7, 2, 4096, std::vector<int64_t>(4096, 6)));
  CheckOpOnGpu(Unique(90'000, 70, 300'000));    // more owners than lanes
  CheckOpOnGpu(Unique(400'000, 5, 1'200'000));  // more than four requests a thread
  CheckOpOnGpu(Unique(3, 1, 200'000));          // every slot is fought for
}

struct Distinct {
  Distinct(Stream& stream, int64_t n, int64_t owners)
      : unique(Tensor::Empty(stream, DType::kI64, {n})),
        inverse(Tensor::Empty(stream, DType::kI32, {n})),
        order(Tensor::Empty(stream, DType::kI32, {n})),
        counts(Tensor::Empty(stream, DType::kI64, {owners})) {}
  Tensor unique, inverse, order, counts;
};

// By owner, as they are first asked for, each found where `inverse` says; then who asked again.
TEST(RowsTest, UniqueIdsStandByOwnerAndFirstRequest) {
  constexpr int64_t kRows = 97 * int64_t{1'000'000'007} + int64_t{5'000'000'000};
  for (const int64_t owners : {1, 2, 7}) {
    for (const int64_t n : {1, 7, 137, 5000}) {
      Allocator allocator{Device{}};
      Stream stream{Device{}, allocator};
      std::vector<int64_t> ids = RandomIds(n, 97);
      for (int64_t& id : ids) id = id * 1'000'000'007 + 5'000'000'000 - 1;
      Distinct d(stream, n, owners);
      CpuKernels().unique_ids(stream, Tensor::Wrap(ids.data(), DType::kI64, {n}), kRows, d.unique,
                              d.inverse, d.order, d.counts);
      std::vector<int64_t> want;
      std::vector<int32_t> first, again;
      for (int64_t owner = 0; owner < owners; ++owner) {
        const size_t before = want.size();
        for (size_t i = 0; i < ids.size(); ++i) {
          if (ids[i] % owners != owner) continue;
          if (std::find(want.begin(), want.end(), ids[i]) != want.end()) continue;
          want.push_back(ids[i]);
          first.push_back(static_cast<int32_t>(i));
        }
        EXPECT_EQ(d.counts.data<int64_t>()[owner], static_cast<int64_t>(want.size() - before));
      }
      for (size_t i = 0; i < ids.size(); ++i) {
        const auto place = static_cast<size_t>(d.inverse.data<int32_t>()[i]);
        ASSERT_LT(place, want.size());
        EXPECT_EQ(want[place], ids[i]);
        EXPECT_EQ(d.unique.data<int64_t>()[place], ids[i] / owners);
        if (first[place] != static_cast<int32_t>(i)) again.push_back(static_cast<int32_t>(i));
      }
      first.insert(first.end(), again.begin(), again.end());
      EXPECT_EQ(std::vector<int32_t>(d.order.data<int32_t>(), d.order.data<int32_t>() + n), first);
    }
  }
}

// The sums of requests by distinct id: what scatter_add_rows makes, from the order of unique_ids.
OpCase SumOfRequests(int64_t rows, int64_t width, int64_t n) {
  OpCase c("sum_unique");
  const std::vector<int64_t> ids = RandomIds(n, rows);
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  Distinct d(stream, n, 3);
  std::vector<int64_t> host = ids;
  CpuKernels().unique_ids(stream, Tensor::Wrap(host.data(), DType::kI64, {n}), rows, d.unique,
                          d.inverse, d.order, d.counts);
  const auto list = [n](const Tensor& t) {
    return std::vector<int64_t>(t.data<int32_t>(), t.data<int32_t>() + n);
  };
  const int64_t* count = d.counts.data<int64_t>();
  c.Fixed("dout", {n, width});
  c.Integers("inverse", DType::kI32, {n}, list(d.inverse));
  c.Integers("order", DType::kI32, {n}, list(d.order));
  c.Note("out", {count[0] + count[1] + count[2], width});
  c.Accurate({"out"});
  c.forward = [](OpRun& r) {
    r.kernels.sum_unique(r.stream, r["dout"], r["inverse"], r["order"], r["out"]);
  };
  return c;
}

TEST(RowsTest, SumUniqueAnswersAll) {
  CheckOp(SumOfRequests(1, 1, 1));
  CheckOp(SumOfRequests(11, 7, 23));
  CheckOp(SumOfRequests(5, 33, 2000));       // hot rows
  CheckOp(SumOfRequests(100'000, 80, 900));  // hardly a request comes twice
  CheckOpOnGpu(SumOfRequests(2000, 80, 30'000));
  CheckOpOnGpu(SumOfRequests(20, 80, 3000));  // few requests, sums over several tiles
}

TEST(RowsTest, SumUniqueAddsInOrder) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  int64_t ids[] = {8, 3, 8, 8};
  float from[] = {1e8f, 5, 1, -1e8f};  // in rising order 0, in another 1
  float to[2];
  Distinct d(stream, 4, 1);
  CpuKernels().unique_ids(stream, Tensor::Wrap(ids, DType::kI64, {4}), 9, d.unique, d.inverse,
                          d.order, d.counts);
  Tensor out = Tensor::Wrap(to, DType::kF32, {2, 1});
  CpuKernels().sum_unique(stream, Tensor::Wrap(from, DType::kF32, {4, 1}), d.inverse, d.order, out);
  EXPECT_EQ(Values(out), (std::vector<double>{0, 5}));
}

// Of u places those from `first` on, as many as `own`, in the table; the rest came.
OpCase Deal(int64_t rows, int64_t width, int64_t n, int64_t first, int64_t own, int64_t others) {
  OpCase c("deal_rows");
  c.Fixed("table", {rows, width});
  c.Integers("own", DType::kI64, {own}, RandomIds(own, rows));
  c.Fixed("came", {others, width});
  c.Integers("inverse", DType::kI32, {n}, RandomIds(n, own + others));
  c.Note("out", {n, width});
  c.Accurate({"table"});
  c.forward = [first](OpRun& r) {
    r.kernels.deal_rows(r.stream, r["table"], r["own"], first, r["came"], r["inverse"], r["out"]);
  };
  return c;
}

TEST(RowsTest, DealRowsAnswersAll) {
  CheckOp(Deal(9, 7, 50, 0, 4, 5));
  CheckOp(Deal(9, 7, 50, 5, 4, 5));
  CheckOp(Deal(40, 80, 900, 100, 30, 200));
  CheckOp(Deal(11, 33, 2000, 2, 1, 3));
  CheckOp(Deal(40, 20, 300, 100, 30, 200));
  CheckOp(Deal(7, 2112, 30, 3, 5, 9));   // a lane has columns of several turns
  CheckOp(Deal(40, 80, 900, 0, 30, 0));  // all here
  CheckOp(Deal(40, 80, 900, 0, 0, 30));  // all elsewhere
}

TEST(RowsTest, DealRowsTakesEachFromItsPlace) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  float table[] = {1, 2, 3, 4};
  float came[] = {10, 20, 30};
  int64_t own[] = {3, 1};
  int32_t inverse[] = {4, 2, 1, 0, 3, 1};
  float to[6];
  Tensor out = Tensor::Wrap(to, DType::kF32, {6, 1});
  CpuKernels().deal_rows(
      stream, Tensor::Wrap(table, DType::kF32, {4, 1}), Tensor::Wrap(own, DType::kI64, {2}), 1,
      Tensor::Wrap(came, DType::kF32, {3, 1}), Tensor::Wrap(inverse, DType::kI32, {6}), out);
  EXPECT_EQ(Values(out), (std::vector<double>{30, 2, 4, 10, 20, 4}));
}

TEST(RowsTest, NoIdsIsLegal) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  Tensor none = Tensor::Empty(stream, DType::kI64, {0});
  Tensor unique = Tensor::Empty(stream, DType::kI64, {0});
  Tensor inverse = Tensor::Empty(stream, DType::kI32, {0});
  Tensor order = Tensor::Empty(stream, DType::kI32, {0});
  Tensor count = Tensor::Empty(stream, DType::kI64, {1});
  CpuKernels().unique_ids(stream, none, 3, unique, inverse, order, count);
  EXPECT_EQ(count.data<int64_t>()[0], 0);
  Tensor table = Tensor::Zeros(stream, DType::kF32, {3, 2});
  Tensor out = Tensor::Empty(stream, DType::kF32, {0, 2});
  CpuKernels().gather_rows(stream, table, none, out);
  CpuKernels().scatter_add_rows(stream, out, none, table);
  Tensor sums = Tensor::Empty(stream, DType::kF32, {0, 2});
  CpuKernels().sum_unique(stream, out, inverse, order, sums);
  CpuKernels().deal_rows(stream, table, none, 0, out, inverse, sums);
  EXPECT_EQ(Values(table), std::vector<double>(6, 0.0));
}

}  // namespace
}  // namespace mneme::test
