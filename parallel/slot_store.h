// What resident and lazy stores share: rows in slots of two pools, those whose optimizer state is
// kept here (values and moments) and those whose state another replica keeps (values only). The
// stores differ in how an id finds its slot.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/growing_array.h"
#include "parallel/row_store.h"

namespace mneme {

class SlotStore : public RowStore {
 public:
  ~SlotStore() override;
  void Read(Stream& stream, const Tensor& ids, Tensor& values) override;
  void Update(Stream& stream, const Tensor& step, const Tensor& ids, const Tensor& grads) override;
  void Write(Stream& stream, const Tensor& ids, const Tensor& values) override;
  void List(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values) override;
  void Export(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values, Tensor& m,
              Tensor& v) override;
  void Import(Stream& stream, const Tensor& ids, const Tensor& values, const Tensor& m,
              const Tensor& v, bool with_state) override;
  int64_t bytes() const override { return table_bytes_ + moment_bytes_; }

 protected:
  // Rows by slot, [rows, W] each; what Materialise has made room for.
  struct Pool {
    explicit Pool(int64_t row_bytes) : values(row_bytes), m(row_bytes), v(row_bytes) {}
    GrowingArray values;
    GrowingArray m;  // m and v: of the pool with state only
    GrowingArray v;
    int64_t rows = 0;
  };
  enum class Order { kOwn, kById };  // of rows: of RowStore::List, of Export

  SlotStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, RowShare share);

  // slots[i] of ids[i], −1 where the row has no value in memory. All ids are of the pool.
  virtual void Find(bool with_state, absl::Span<const int64_t> ids, int64_t* slots) const = 0;
  // The same, materialising, so that none is −1; new slots of the lazy store hold first values
  // where `fill`, else what the caller puts there, and moments of 0.
  virtual void Materialise(bool with_state, absl::Span<const int64_t> ids, bool fill,
                           int64_t* slots) = 0;
  // Slots and ids of rows [begin, end) of the materialised rows with state. kOwn: rising slots.
  virtual void ListSlots(Order order, int64_t begin, int64_t end, int64_t* slots, int64_t* ids) = 0;

  Pool& pool(bool with_state) { return with_state ? kept_ : mirrored_; }
  const Pool& pool(bool with_state) const { return with_state ? kept_ : mirrored_; }
  int64_t row_bytes() const { return kept_.values.row_bytes(); }
  // First value of row `id`, W values of the table's dtype.
  void FillFirst(int64_t id, void* row) const;
  // Tells the allocator's report how much the store holds now, the index (or bitmap) included.
  void Account(int64_t index_bytes, int64_t kept_rows, int64_t mirrored_rows);

 private:
  // The ids of one pool among `ids`, and where they stand there.
  struct Part {
    std::vector<int64_t> ids;
    std::vector<int64_t> places;
  };
  Part PartOfPool(absl::Span<const int64_t> ids, bool with_state) const;
  // Row i goes to place places[i] of `values`; to place i where `places` is null.
  void ReadFrom(bool with_state, absl::Span<const int64_t> ids, const int64_t* places,
                char* values) const;
  void ImportValues(bool with_state, const Part& part, const Tensor& values);
  void MoveAll(Stream& stream, const Tensor& step, absl::Span<const int64_t> touched,
               const Tensor& grads);
  void RunAdam(Stream& stream, const Tensor& step, const Tensor& slots, const Tensor& grads);
  void CheckIds(absl::Span<const int64_t> ids) const;
  void CheckRows(const Tensor& ids, const Tensor& rows) const;

  const Kernels& kernels_;
  Pool kept_;
  Pool mirrored_;
  int64_t table_bytes_ = 0;  // as told to the allocator
  int64_t moment_bytes_ = 0;
};

}  // namespace mneme
