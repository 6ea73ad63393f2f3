// Randomness as a pure function of (seed, name, index): nobody owns a generator, no layout changes
// a number.
//
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) under a key
// made of the seed and a hash of the name. Normals by inversion (Wichura, AS 241) in double, with a
// logarithm of our own: integer arithmetic, explicit fma, division and sqrt only, so that every
// device and compiler gives the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace mneme {

struct RandomKey {
  uint32_t k0 = 0;
  uint32_t k1 = 0;
};

// Key of a named thing ("blocks.3.moe.experts.17.up") under a run's seed. FNV-1a over the name,
// mixed with the seed.
RandomKey MakeKey(uint64_t seed, std::string_view name);

// The generator itself: four 32-bit words from a counter of four.
std::array<uint32_t, 4> PhiloxBlock(RandomKey key, std::array<uint32_t, 4> counter);

// Block number `index` of the key's sequence: counter (low word, high word, 0, 0).
std::array<uint32_t, 4> Philox(RandomKey key, uint64_t index);

// Two draws a block: draw number i is half i % 2 of block i / 2.
// 64 random bits, uniform in [0, 1) with 53 bits, uniform integer in [0, n) and standard normal:
// draw number `index`.
uint64_t RandomBits(RandomKey key, uint64_t index);
double RandomUniform(RandomKey key, uint64_t index);
int64_t RandomInt(RandomKey key, uint64_t index, int64_t n);
double RandomNormal(RandomKey key, uint64_t index);

// out[i] = mean 0, standard deviation `std`, draw number first + i.
template <class T>
void FillNormal(RandomKey key, uint64_t first, int64_t count, double std, T* out);

// A keyed permutation of [0, n): a Feistel network over the next power of four, walked until it
// lands inside.
int64_t Permute(RandomKey key, int64_t index, int64_t n);

}  // namespace mneme
