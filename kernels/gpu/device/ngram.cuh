// Rows of suffix n-grams: the hash of kernels/ops/engram.h on the device, its constants as one
// value that a kernel takes and keeps in shared memory.
#pragma once

#include <algorithm>

#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/limits.h"
#include "kernels/ops/engram.h"

namespace mneme::gpu {

inline constexpr int kMostTables = 64;  // sub-tables of one launch

// Some sub-tables of a hash. mod prime without division: q = ⌊mix · ⌊2⁶⁴ / prime⌋ / 2⁶⁴⌋ is ⌊mix /
// prime⌋ or one less.
struct HashTables {
  uint64_t prime[kMostTables];
  uint64_t inverse[kMostTables];   // ⌊2⁶⁴ / prime⌋
  int64_t offset[kMostTables];     // of the sub-table's first row in the fused table
  uint64_t multiplier[kMostBack];  // by look-back: 0 is the token itself
  int32_t order[kMostTables];      // tokens of an n-gram
  int32_t pad;                     // canonical id before the document's first token
  int32_t tables;                  // how many of them there are
};

// Sub-tables [first, first + count) of a hash, numbered order after order, head after head.
// REQUIRES: at most kMostTables, orders of at most kMostBack tokens, primes above 1.
inline HashTables MakeHashTables(const NgramHash& hash, int64_t first, int64_t count) {
  CHECK_LE(count, int64_t{kMostTables});
  CHECK_LE(hash.multipliers.size(), size_t{kMostBack});
  CHECK_EQ(static_cast<int64_t>(hash.multipliers.size()), hash.orders.back());
  HashTables h = {};
  h.tables = static_cast<int32_t>(count);
  h.pad = static_cast<int32_t>(hash.pad);
  for (size_t i = 0; i < hash.multipliers.size(); ++i) {
    h.multiplier[i] = static_cast<uint64_t>(hash.multipliers[i]);
  }
  for (int64_t k = 0; k < count; ++k) {
    const auto from = static_cast<size_t>(first + k);
    const auto prime = static_cast<uint64_t>(hash.primes[from]);
    CHECK_GT(prime, uint64_t{1});
    h.prime[k] = prime;
    h.inverse[k] = static_cast<uint64_t>((static_cast<unsigned __int128>(1) << 64) / prime);
    h.offset[k] = hash.offsets[from];
    h.order[k] = static_cast<int32_t>(hash.orders[from / static_cast<size_t>(hash.heads)]);
  }
  return h;
}

// What is hashed. Pointers are of the device.
struct HashedText {
  const int32_t* tokens;     // [T]
  const int32_t* canonical;  // [vocabulary] id -> canonical id
  const int32_t* doc_start;  // [T] position in its row of the document's first token
  int32_t vocabulary;
  uint32_t length;  // tokens of a row
};

inline HashedText MakeHashedText(const Tensor& tokens, const Tensor& canonical, int64_t length,
                                 const Tensor& doc_start) {
  return {Data<int32_t>(tokens), Data<int32_t>(canonical), Data<int32_t>(doc_start),
          static_cast<int32_t>(canonical.elements()), static_cast<uint32_t>(length)};
}

// All threads of a block: the constants to shared memory. Sync before use.
__device__ __forceinline__ void KeepTables(const HashTables& from, HashTables& to) {
  const auto* words = reinterpret_cast<const uint32_t*>(&from);
  auto* kept = reinterpret_cast<uint32_t*>(&to);
  for (unsigned i = threadIdx.x; i < sizeof(HashTables) / 4; i += blockDim.x) kept[i] = words[i];
}

// Row of token t in sub-table k, in the fused table (docs/mathematics.md, Engram). Look-backs that
// leave the document read the pad. A token outside the vocabulary ends the kernel with a trap.
__device__ __forceinline__ int64_t RowOf(const HashTables& hash, const HashedText& text, uint32_t t,
                                         uint32_t k) {
  const int history = static_cast<int>(t % text.length) - text.doc_start[t];
  const int order = hash.order[k];
  const int known = min(order - 1, history);  // look-backs that stay in the document
  uint64_t mix = 0;
  constexpr int kAtOnce = 4;
  for (int from = 0; from < order; from += kAtOnce) {
    int32_t ids[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (from + i <= known) ids[i] = text.tokens[t - static_cast<uint32_t>(from + i)];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (from + i > known) {
        ids[i] = hash.pad;
        continue;
      }
      if (ids[i] < 0 || ids[i] >= text.vocabulary) __trap();
      ids[i] = text.canonical[ids[i]];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (from + i >= order) break;
      mix ^= static_cast<uint64_t>(static_cast<int64_t>(ids[i])) * hash.multiplier[from + i];
    }
  }
  const uint64_t prime = hash.prime[k];
  uint64_t rest = mix - __umul64hi(mix, hash.inverse[k]) * prime;
  if (rest >= prime) rest -= prime;
  return static_cast<int64_t>(rest) + hash.offset[k];
}

}  // namespace mneme::gpu
