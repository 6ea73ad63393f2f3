// Row id -> slot, for tens of millions of rows out of 10^11.
//
// Open addressing with linear probing. An entry is 8 bytes, a 24-bit fingerprint of the id over a
// 40-bit slot; ids stand by slot in an array of their own. At most three quarters full: 19 to 24
// bytes a row. Work in batches, so that the misses of one row hide behind those of its neighbours.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "parallel/growing_array.h"

namespace mneme {

// Used by one thread. Slots are 0, 1, 2, … in order of insertion; nothing is ever removed alone.
class RowIndex {
 public:
  RowIndex();

  // slots[i] <- slot of ids[i], or −1.
  void Find(absl::Span<const int64_t> ids, int64_t* slots) const;
  // The same, and ids that are new get the next slots in order.
  void FindOrInsert(absl::Span<const int64_t> ids, int64_t* slots);
  // Forgets all ids, keeps the room.
  void Clear();

  int64_t size() const { return size_; }
  // Of a slot below size(); ids [size()] by slot, valid until the next insertion.
  int64_t id(int64_t slot) const { return ids_.as<int64_t>()[slot]; }
  const int64_t* ids() const { return ids_.as<int64_t>(); }
  int64_t bytes() const;  // of all entries, empty ones too, and of the ids that are there

 private:
  void Rehash(int64_t capacity);
  // Entry where `id` is or would go.
  int64_t Probe(int64_t id, uint64_t hash) const;

  GrowingArray entries_;
  GrowingArray ids_;
  int64_t capacity_ = 0;
  int64_t size_ = 0;
};

}  // namespace mneme
