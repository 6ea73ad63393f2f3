// Where the Engram rows of one rank live. Small on purpose: host, disk and GPU tiers come behind
// it.
//
// A row's first value is a pure function of (seed, table name, global row): `RowInit`. A row is
// *materialised* by its first update; before that nothing need exist for it. Resident and lazy
// stores give the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/core/random.h"
#include "kernels/kernels.h"
#include "parallel/mesh.h"

namespace mneme {

// First value of column c of global row g: draw g · width + c of `key`, times std.
struct RowInit {
  RandomKey key;
  double std = 0.02;
};

struct RowTableSpec {
  std::string name;  // "blocks.1.engram.table"
  int64_t rows = 0;  // of the whole table, all ranks
  int64_t width = 0;
  DType dtype = DType::kF32;
  RowInit init;
  AdamOptions adam;
  bool dense_adam = true;  // every materialised row moves each step, or only rows with a gradient
};

// Which rows of a table a rank holds, and of which it keeps the optimizer state: pure functions of
// the row (Layout::row_coordinate, row_state_replica).
struct RowShare {
  int64_t phase = 0;  // coordinate on the memory axis
  int64_t stride = 1;
  int64_t replica = 0;
  int64_t replicas = 1;

  bool holds(int64_t row) const { return row % stride == phase; }
  // The rows that it holds are numbered from 0: row number i, and the number of a row.
  int64_t row(int64_t number) const { return number * stride + phase; }
  int64_t number(int64_t row) const { return row / stride; }
  // Of a row that it holds.
  bool keeps_state(int64_t row) const { return row / stride % replicas == replica; }
};

// The rows of one share of a table; ids in the interface are global rows (int64 end to end) that
// the share holds. Owned by a RowExchange; used by the thread of its rank.
class RowStore {
 public:
  virtual ~RowStore() = default;
  const RowTableSpec& spec() const { return spec_; }
  const RowShare& share() const { return share_; }
  Allocator& allocator() { return allocator_; }  // whose report the store's memory stands in

  // values [n, W] of ids i64 [n] (any order, repeats allowed); rows not materialised give their
  // first value.
  virtual void Read(Stream& stream, const Tensor& ids, Tensor& values) = 0;

  // One optimizer step for the rows whose state this store keeps. ids i64 [n] rising and distinct,
  // grads [n, W]. Materialises rows seen for the first time. Under dense_adam all materialised rows
  // with state move, those without a gradient by a gradient of 0; else only those of `ids`. Nothing
  // moves where step[kStepApply] is 0, and then nothing is materialised.
  virtual void Update(Stream& stream, const Tensor& step, const Tensor& ids,
                      const Tensor& grads) = 0;
  // Values computed by another replica, of distinct ids whose state it keeps. Materialises.
  virtual void Write(Stream& stream, const Tensor& ids, const Tensor& values) = 0;

  // Materialised rows: with_state, only those whose state this store keeps; all otherwise. Over the
  // replicas of a table each row with state counts once.
  virtual int64_t materialised(bool with_state) const = 0;
  // Rows [begin, end) of the materialised rows with state, in the store's own order (the same every
  // time, stable between updates). ids i64 [n], values [n, W].
  virtual void List(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values) = 0;
  // The same by rising id, with moments, for a checkpoint. ids i64 [n], values, m, v [n, W].
  virtual void Export(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values,
                      Tensor& m, Tensor& v) = 0;
  // Rows of a checkpoint, distinct ids. with_state: m and v are defined and this store keeps them;
  // else the moments of rows that it keeps begin at zero.
  virtual void Import(Stream& stream, const Tensor& ids, const Tensor& values, const Tensor& m,
                      const Tensor& v, bool with_state) = 0;
  virtual int64_t bytes() const = 0;  // memory held now

 protected:
  RowStore(Allocator& allocator, RowTableSpec spec, RowShare share)
      : spec_(std::move(spec)), share_(share), allocator_(allocator) {}
  const RowTableSpec spec_;
  const RowShare share_;

 private:
  Allocator& allocator_;
};

// All rows of the share in memory from the start, moments of those whose state it keeps. Under
// dense Adam with decay all of them count as materialised from the start. Errors:
// ResourceExhausted, before memory is touched, where they do not fit the machine.
absl::StatusOr<std::unique_ptr<RowStore>> MakeResidentStore(Stream& stream, const Kernels& kernels,
                                                            RowTableSpec spec, RowShare share);
// Memory grows with materialised rows: values, moments and about 25 bytes of index each. REQUIRES:
// no decay.
std::unique_ptr<RowStore> MakeLazyStore(Stream& stream, const Kernels& kernels, RowTableSpec spec,
                                        RowShare share);

// The store of this rank. Collective over the mesh's world; the same status on every rank. Errors:
// ResourceExhausted where a resident table does not fit a host of the run.
absl::StatusOr<std::unique_ptr<RowStore>> MakeRowStore(Stream& stream, const Kernels& kernels,
                                                       Mesh& mesh, RowTableSpec spec,
                                                       bool resident);

}  // namespace mneme
