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

#include "absl/status/status.h"
#include "kernels/core/random.h"
#include "kernels/kernels.h"

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

// The rows with (row % stride) == phase of a table; ids in the interface are global rows (int64 end
// to end).
class RowStore {
 public:
  virtual ~RowStore() = default;
  const RowTableSpec& spec() const { return spec_; }

  // values [n, W] of ids i64 [n] (any order, repeats allowed); rows not materialised give their
  // first value.
  virtual void Read(Stream& stream, const Tensor& ids, Tensor& values) = 0;

  // One optimizer step for the rows whose state this store keeps. ids i64 [n] rising and distinct,
  // grads [n, W]. Materialises rows seen for the first time. Under dense_adam all materialised rows
  // with state move. Nothing moves where step[kStepApply] is 0 — and then nothing is materialised.
  // changed_ids [m] (rising) and changed_values [m, W]: what must be sent to other replicas.
  virtual void Update(Stream& stream, const Tensor& step, const Tensor& ids, const Tensor& grads,
                      Tensor& changed_ids, Tensor& changed_values) = 0;
  // Values computed by another replica. Materialises.
  virtual void Write(Stream& stream, const Tensor& ids, const Tensor& values) = 0;

  // Materialised rows, whose state this store keeps if `with_state`, all otherwise.
  virtual int64_t materialised(bool with_state) const = 0;
  // Materialised rows with state, by rising id, for a checkpoint; [begin, end) of that order.
  // ids i64 [n], values, m, v [n, W].
  virtual void Export(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values,
                      Tensor& m, Tensor& v) = 0;
  // Rows of a checkpoint. with_state: m and v are defined and this store keeps them.
  virtual void Import(Stream& stream, const Tensor& ids, const Tensor& values, const Tensor& m,
                      const Tensor& v, bool with_state) = 0;
  virtual int64_t bytes() const = 0;  // memory held now

 protected:
  explicit RowStore(RowTableSpec spec) : spec_(std::move(spec)) {}
  RowTableSpec spec_;
};

// All rows of (phase, stride) in memory from the start. Fails where they do not fit the machine.
absl::StatusOr<std::unique_ptr<RowStore>> MakeResidentStore(Stream& stream, const Kernels& kernels,
                                                            RowTableSpec spec, int64_t phase,
                                                            int64_t stride);
// Memory grows with materialised rows: values, moments and about 30 bytes of index each.
std::unique_ptr<RowStore> MakeLazyStore(Stream& stream, const Kernels& kernels, RowTableSpec spec,
                                        int64_t phase, int64_t stride);

}  // namespace mneme
