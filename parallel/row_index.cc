#include "parallel/row_index.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kFirstCapacity = 1024;
constexpr int64_t kBatch = 32;
constexpr int kSlotBits = 40;
constexpr uint64_t kSlotMask = (uint64_t{1} << kSlotBits) - 1;

// The finisher of MurmurHash3: neighbouring ids land far apart.
uint64_t Hash(int64_t id) {
  auto x = static_cast<uint64_t>(id);
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

// The place comes from the high bits, the fingerprint from the low ones. Any capacity will do, not
// only powers of two.
int64_t PlaceOf(uint64_t hash, int64_t capacity) {
  return static_cast<int64_t>(
      (static_cast<unsigned __int128>(hash) * static_cast<uint64_t>(capacity)) >> 64);
}
uint64_t Fingerprint(uint64_t hash) { return hash << kSlotBits; }
// 0 is an empty entry, so slots are stored from 1.
uint64_t Entry(uint64_t hash, int64_t slot) {
  return Fingerprint(hash) | static_cast<uint64_t>(slot + 1);
}
int64_t SlotOf(uint64_t entry) { return static_cast<int64_t>(entry & kSlotMask) - 1; }

}  // namespace

RowIndex::RowIndex() : entries_(sizeof(uint64_t)), ids_(sizeof(int64_t)) { Rehash(kFirstCapacity); }

int64_t RowIndex::Probe(int64_t id, uint64_t hash) const {
  const uint64_t* entries = entries_.as<uint64_t>();
  const int64_t* ids = ids_.as<int64_t>();
  int64_t place = PlaceOf(hash, capacity_);
  while (entries[place] != 0) {
    const bool alike = ((entries[place] ^ Fingerprint(hash)) & ~kSlotMask) == 0;
    if (alike && ids[SlotOf(entries[place])] == id) break;
    if (++place == capacity_) place = 0;
  }
  return place;
}

void RowIndex::Find(absl::Span<const int64_t> ids, int64_t* slots) const {
  const uint64_t* entries = entries_.as<uint64_t>();
  const auto n = static_cast<int64_t>(ids.size());
  uint64_t hashes[kBatch];
  for (int64_t begin = 0; begin < n; begin += kBatch) {
    const int64_t count = std::min(kBatch, n - begin);
    const int64_t* batch = ids.data() + begin;
    for (int64_t i = 0; i < count; ++i) {
      hashes[i] = Hash(batch[i]);
      __builtin_prefetch(&entries[PlaceOf(hashes[i], capacity_)]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t entry = entries[PlaceOf(hashes[i], capacity_)];
      if (entry != 0) __builtin_prefetch(&ids_.as<int64_t>()[SlotOf(entry)]);
    }
    for (int64_t i = 0; i < count; ++i) {
      slots[begin + i] = SlotOf(entries[Probe(batch[i], hashes[i])]);
    }
  }
}

void RowIndex::FindOrInsert(absl::Span<const int64_t> ids, int64_t* slots) {
  Find(ids, slots);  // warms what the second pass needs
  for (size_t i = 0; i < ids.size(); ++i) {
    if (slots[i] >= 0) continue;
    if ((size_ + 1) * 4 > capacity_ * 3) Rehash(capacity_ + capacity_ / 2);
    const uint64_t hash = Hash(ids[i]);
    uint64_t& entry = entries_.as<uint64_t>()[Probe(ids[i], hash)];
    if (entry == 0) {  // else an earlier id of this call
      CHECK_LT(static_cast<uint64_t>(size_), kSlotMask);
      ids_.Reserve(size_ + 1);
      ids_.as<int64_t>()[size_] = ids[i];
      entry = Entry(hash, size_++);
    }
    slots[i] = SlotOf(entry);
  }
}

void RowIndex::Clear() {
  std::memset(entries_.row(0), 0, static_cast<size_t>(capacity_ * entries_.row_bytes()));
  size_ = 0;
}

int64_t RowIndex::bytes() const {
  return capacity_ * entries_.row_bytes() + size_ * ids_.row_bytes();
}

// From the ids alone: the old table is gone before the new one is there.
void RowIndex::Rehash(int64_t capacity) {
  entries_.Reset(capacity);
  capacity_ = capacity;
  constexpr int64_t kAhead = 16;
  for (int64_t slot = 0; slot < size_; ++slot) {
    if (slot + kAhead < size_) {
      __builtin_prefetch(&entries_.as<uint64_t>()[PlaceOf(Hash(id(slot + kAhead)), capacity_)], 1);
    }
    const uint64_t hash = Hash(id(slot));
    int64_t place = PlaceOf(hash, capacity_);
    while (entries_.as<uint64_t>()[place] != 0) {
      if (++place == capacity_) place = 0;
    }
    entries_.as<uint64_t>()[place] = Entry(hash, slot);
  }
}

}  // namespace mneme
