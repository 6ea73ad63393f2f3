// All rows of a share from the start, in order of row; a bitmap says which are materialised.
#include <omp.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/host_memory.h"
#include "parallel/resident_size.h"
#include "parallel/slot_store.h"

namespace mneme {
namespace {

constexpr int64_t kWord = 64;
constexpr int64_t kBlockWords = 64;  // words counted together

// Which rows of one pool are materialised, with the way from "the k-th" to its place.
class Bitmap {
 public:
  explicit Bitmap(int64_t n) : words_(static_cast<size_t>((n + kWord - 1) / kWord), 0) {}

  void Set(int64_t i) {
    uint64_t& word = words_[static_cast<size_t>(i / kWord)];
    const uint64_t bit = uint64_t{1} << (i % kWord);
    if ((word & bit) != 0) return;
    word |= bit;
    ++count_;
    counted_ = false;
  }
  void SetAll(int64_t n) {
    for (int64_t i = 0; i < n; ++i) Set(i);
  }
  int64_t count() const { return count_; }
  int64_t bytes() const { return static_cast<int64_t>(words_.size() * sizeof(uint64_t)); }

  // out <- places of the set bits [begin, end), counted from the first.
  void List(int64_t begin, int64_t end, int64_t* out) {
    CHECK(begin >= 0 && begin <= end && end <= count_);
    if (begin == end) return;
    CountBlocks();
    const auto block =
        std::upper_bound(before_.begin(), before_.end(), begin) - before_.begin() - 1;
    int64_t k = before_[static_cast<size_t>(block)];
    for (size_t w = static_cast<size_t>(block * kBlockWords); k < end; ++w) {
      for (uint64_t word = words_[w]; word != 0 && k < end; word &= word - 1, ++k) {
        if (k >= begin) *out++ = static_cast<int64_t>(w) * kWord + std::countr_zero(word);
      }
    }
  }

 private:
  void CountBlocks() {
    if (counted_) return;
    before_.clear();
    int64_t count = 0;
    for (size_t w = 0; w < words_.size(); ++w) {
      if (w % kBlockWords == 0) before_.push_back(count);
      count += std::popcount(words_[w]);
    }
    counted_ = true;
  }

  std::vector<uint64_t> words_;
  std::vector<int64_t> before_;  // set bits before each block of words
  int64_t count_ = 0;
  bool counted_ = false;
};

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
