#include "kernels/ops/rows.h"

#include <gtest/gtest.h>

#include <set>

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

// unique has its first Σ counts places written.
OpCase Unique(int64_t rows, int64_t owners, int64_t n) {
  OpCase c("unique_ids");
  c.Integers("ids", DType::kI64, {n}, RandomIds(n, rows));
  c.NoteOf("unique", DType::kI64, {n}, /*partial=*/true);
  c.NoteOf("inverse", DType::kI32, {n});
  c.NoteOf("counts", DType::kI64, {owners});
  c.forward = [rows](OpRun& r) {
    r.kernels.unique_ids(r.stream, r["ids"], rows, r["unique"], r["inverse"], r["counts"]);
  };
  return c;
}

TEST(RowsTest, UniqueIdsAnswerAll) {
  CheckOp(Unique(1, 1, 1));
  CheckOp(Unique(97, 1, 137));
  CheckOp(Unique(97, 4, 5000));
  CheckOp(Unique(5, 8, 300));  // owners without rows
  CheckOp(Unique(200'000, 3, 40'000));
}

// By owner, rising inside, each found where `inverse` says.
TEST(RowsTest, UniqueIdsRiseAndLeadBack) {
  constexpr int64_t kRows = 97 * int64_t{1'000'000'007} + int64_t{5'000'000'000};
  for (const int64_t owners : {1, 2, 7}) {
    for (const int64_t n : {1, 7, 137, 5000}) {
      Allocator allocator{Device{}};
      Stream stream{Device{}, allocator};
      std::vector<int64_t> ids = RandomIds(n, 97);
      for (int64_t& id : ids) id = id * 1'000'000'007 + 5'000'000'000 - 1;
      Tensor unique = Tensor::Empty(stream, DType::kI64, {n});
      Tensor inverse = Tensor::Empty(stream, DType::kI32, {n});
      Tensor counts = Tensor::Empty(stream, DType::kI64, {owners});
      CpuKernels().unique_ids(stream, Tensor::Wrap(ids.data(), DType::kI64, {n}), kRows, unique,
                              inverse, counts);
      std::vector<int64_t> distinct;
      const int64_t* u = unique.data<int64_t>();
      for (int64_t owner = 0; owner < owners; ++owner) {
        for (int64_t i = 0; i < counts.data<int64_t>()[owner]; ++i, ++u) {
          distinct.push_back(*u * owners + owner);
          if (i > 0) {
            EXPECT_LT(u[-1], u[0]);
          }
        }
      }
      const std::set<int64_t> want(ids.begin(), ids.end());
      EXPECT_EQ(std::set<int64_t>(distinct.begin(), distinct.end()), want);
      ASSERT_EQ(distinct.size(), want.size());
      for (int64_t i = 0; i < n; ++i) {
        const int32_t place = inverse.data<int32_t>()[i];
        ASSERT_TRUE(place >= 0 && place < static_cast<int64_t>(distinct.size()));
        EXPECT_EQ(distinct[static_cast<size_t>(place)], ids[static_cast<size_t>(i)]);
      }
    }
  }
}

TEST(RowsTest, NoIdsIsLegal) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  Tensor none = Tensor::Empty(stream, DType::kI64, {0});
  Tensor unique = Tensor::Empty(stream, DType::kI64, {0});
  Tensor inverse = Tensor::Empty(stream, DType::kI32, {0});
  Tensor count = Tensor::Empty(stream, DType::kI64, {1});
  CpuKernels().unique_ids(stream, none, 3, unique, inverse, count);
  EXPECT_EQ(count.data<int64_t>()[0], 0);
  Tensor table = Tensor::Zeros(stream, DType::kF32, {3, 2});
  Tensor out = Tensor::Empty(stream, DType::kF32, {0, 2});
  CpuKernels().gather_rows(stream, table, none, out);
  CpuKernels().scatter_add_rows(stream, out, none, table);
  EXPECT_EQ(Values(table), std::vector<double>(6, 0.0));
}

}  // namespace
}  // namespace mneme::test
