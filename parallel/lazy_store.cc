// Rows come into being with their first update, in slots of order of arrival.
#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/host_memory.h"
#include "parallel/row_index.h"
#include "parallel/slot_store.h"

namespace mneme {
namespace {

// The machine's memory is looked at again after this much growth, and this much of it stays free.
constexpr int64_t kLookEvery = int64_t{256} << 20;
constexpr int64_t kReserve = int64_t{256} << 20;

class LazyStore : public SlotStore {
 public:
  LazyStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, RowShare share)
      : SlotStore(stream, kernels, std::move(spec), share) {
    CHECK_EQ(spec_.adam.decay, 0.0);  // rows that are not there cannot decay
    AccountAll();
    looked_at_ = bytes();
  }

  int64_t materialised(bool with_state) const override {
    return kept_index_.size() + (with_state ? 0 : mirrored_index_.size());
  }

 protected:
  void Find(bool with_state, absl::Span<const int64_t> ids, int64_t* slots) const override {
    (with_state ? kept_index_ : mirrored_index_).Find(ids, slots);
  }

  void Materialise(bool with_state, absl::Span<const int64_t> ids, bool fill,
                   int64_t* slots) override {
    RowIndex& index = with_state ? kept_index_ : mirrored_index_;
    Pool& rows = pool(with_state);
    index.FindOrInsert(ids, slots);
    rows.values.Reserve(index.size());
    if (with_state) {
      rows.m.Reserve(index.size());  // fresh pages are zero, as first moments are
      rows.v.Reserve(index.size());
    }
    if (fill) {
      for (int64_t slot = rows.rows; slot < index.size(); ++slot) {
        FillFirst(index.id(slot), rows.values.row(slot));
      }
    }
    rows.rows = index.size();
    AccountAll();
    LookAtMemory();
  }

  void ListSlots(Order order, int64_t begin, int64_t end, int64_t* slots, int64_t* ids) override {
    CHECK(begin >= 0 && begin <= end && end <= kept_index_.size());
    if (order == Order::kById) SortById();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = order == Order::kOwn ? i : by_id_[static_cast<size_t>(i)].second;
      *slots++ = slot;
      *ids++ = kept_index_.id(slot);
    }
    // The last rows of a checkpoint have been asked for: the order is not needed until the next.
    if (order == Order::kById && end == kept_index_.size()) by_id_ = {};
  }

 private:
  void AccountAll() {
    SlotStore::Account(kept_index_.bytes() + mirrored_index_.bytes(), kept_index_.size(),
                       mirrored_index_.size());
  }

  void SortById() {
    if (static_cast<int64_t>(by_id_.size()) == kept_index_.size()) return;
    by_id_.clear();
    by_id_.reserve(static_cast<size_t>(kept_index_.size()));
    for (int64_t slot = 0; slot < kept_index_.size(); ++slot) {
      by_id_.emplace_back(kept_index_.id(slot), slot);
    }
    std::sort(by_id_.begin(), by_id_.end());
  }

  // Ends the run with a message while there is memory to write it.
  void LookAtMemory() {
    if (bytes() - looked_at_ < kLookEvery) return;
    looked_at_ = bytes();
    const HostMemory memory = ReadHostMemory();
    if (memory.available > kReserve) return;
    Fatal(__FILE__, __LINE__,
          "out of memory: " + spec_.name + " holds " + std::to_string(materialised(false)) +
              " rows in " + std::to_string(bytes()) + " bytes and " + memory.source + " leaves " +
              std::to_string(memory.available) +
              "; raise parallel.memory over more hosts, or train on less text\n" +
              allocator().Report());
  }

  RowIndex kept_index_;
  RowIndex mirrored_index_;
  std::vector<std::pair<int64_t, int64_t>> by_id_;  // (id, slot) of rows with state, or empty
  int64_t looked_at_ = 0;
};

}  // namespace

std::unique_ptr<RowStore> MakeLazyStore(Stream& stream, const Kernels& kernels, RowTableSpec spec,
                                        RowShare share) {
  return std::make_unique<LazyStore>(stream, kernels, std::move(spec), share);
}

}  // namespace mneme
