// All rows of a share from the start, in order of row; a bitmap says which are materialised.
#include <omp.h>

#include <utility>

#include "parallel/bitmap.h"
#include "parallel/host_memory.h"
#include "parallel/resident_size.h"
#include "parallel/slot_store.h"

namespace mneme {
namespace {

class ResidentStore : public SlotStore {
 public:
  ResidentStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, RowShare share)
      : SlotStore(stream, kernels, std::move(spec), share),
        kept_bits_(ResidentRows(spec_, share_).kept),
        mirrored_bits_(ResidentRows(spec_, share_).mirrored) {
    const RowsHeld held = ResidentRows(spec_, share_);
    Account(kept_bits_.bytes() + mirrored_bits_.bytes(), held.kept, held.mirrored);
    pool(true).m.Reset(held.kept);
    pool(true).v.Reset(held.kept);
    // A decay moves rows that never had a gradient too.
    if (spec_.dense_adam && spec_.adam.decay != 0) kept_bits_.SetAll(held.kept);
    FillPool(true, held.kept);
    FillPool(false, held.mirrored);
  }

  int64_t materialised(bool with_state) const override {
    return kept_bits_.count() + (with_state ? 0 : mirrored_bits_.count());
  }

 protected:
  void Find(bool with_state, absl::Span<const int64_t> ids, int64_t* slots) const override {
    for (size_t i = 0; i < ids.size(); ++i) slots[i] = SlotOf(with_state, ids[i]);
  }

  void Materialise(bool with_state, absl::Span<const int64_t> ids, bool, int64_t* slots) override {
    Find(with_state, ids, slots);
    Bitmap& bits = with_state ? kept_bits_ : mirrored_bits_;
    for (size_t i = 0; i < ids.size(); ++i) bits.Set(slots[i]);
  }

  // Slots rise with ids: both orders are the same.
  void ListSlots(Order, int64_t begin, int64_t end, int64_t* slots, int64_t* ids) override {
    kept_bits_.List(begin, end, slots);
    for (int64_t i = 0; i < end - begin; ++i) ids[i] = IdOf(true, slots[i]);
  }

 private:
  // Row number inside the share: 0, 1, 2, … Every replicas-th is kept, the others are mirrored.
  int64_t SlotOf(bool with_state, int64_t id) const {
    const int64_t turn = id / share_.stride / share_.replicas;
    if (with_state) return turn;
    const int64_t replica = id / share_.stride % share_.replicas;
    return turn * (share_.replicas - 1) + replica - (replica > share_.replica ? 1 : 0);
  }

  int64_t IdOf(bool with_state, int64_t slot) const {
    int64_t row = 0;
    if (with_state) {
      row = slot * share_.replicas + share_.replica;
    } else {
      const int64_t others = share_.replicas - 1;
      const int64_t place = slot % others;
      row = slot / others * share_.replicas + place + (place >= share_.replica ? 1 : 0);
    }
    return row * share_.stride + share_.phase;
  }

  void FillPool(bool with_state, int64_t rows) {
    Pool& out = pool(with_state);
    out.rows = rows;
    out.values.Reset(rows);
    const int threads = omp_get_max_threads();
    if (threads == 1) {
      for (int64_t slot = 0; slot < rows; ++slot) {
        FillFirst(IdOf(with_state, slot), out.values.row(slot));
      }
      return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t slot = 0; slot < rows; ++slot) {
      FillFirst(IdOf(with_state, slot), out.values.row(slot));
    }
  }

  Bitmap kept_bits_;
  Bitmap mirrored_bits_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowStore>> MakeResidentStore(Stream& stream, const Kernels& kernels,
                                                            RowTableSpec spec, RowShare share) {
  RETURN_IF_ERROR(CheckResidentFits(spec, share, /*ranks_on_host=*/1, ReadHostMemory()));
  return std::make_unique<ResidentStore>(stream, kernels, std::move(spec), share);
}

}  // namespace mneme
