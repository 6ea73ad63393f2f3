// Engram's addresses, host side: multipliers, primes, table sizes (docs/mathematics.md). Pure
// functions, no tensors.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "configs/model.h"
#include "kernels/ops/engram.h"

namespace mneme {

// numpy's SeedSequence(seed).generate_state(4, uint64): what seeds PCG64.
std::array<uint64_t, 4> NumpySeed(uint64_t seed);
// The first `count` raw 64-bit outputs of PCG64(seed).
std::vector<uint64_t> NumpyRaw(uint64_t seed, int64_t count);
// numpy's default_rng(seed).integers(0, bound, size=count): SeedSequence, PCG64, Lemire; bit-exact
// (docs/mathematics.md). REQUIRES: bound > 2^32.
std::vector<int64_t> NumpyIntegers(uint64_t seed, int64_t bound, int64_t count);

// Odd multipliers m_0 .. m_{count-1} of one layer over `canonical_vocab` = V'.
std::vector<int64_t> NgramMultipliers(int64_t hash_seed, int64_t layer_id, int64_t canonical_vocab,
                                      int64_t count);

// True for primes; exact for every 64-bit number.
bool IsPrime(uint64_t n);

// Rows of the sub-tables of each Engram layer, in the order of config.blocks, each order after
// order, head after head. Drawn in ascending block order (docs/mathematics.md), all distinct: the
// smallest unused primes from vocab_size on.
std::vector<std::vector<int64_t>> NgramPrimes(const EngramConfig& config);

// Hash of every Engram layer, in config order, with the sub-tables of NgramPrimes. `pad` and
// `canonical_vocab` come from the data (canonical map), or raw where compression is off.
std::vector<NgramHash> MakeNgramHashes(const EngramConfig& config, int64_t canonical_vocab,
                                       int64_t pad);

// Fused rows of one layer.
int64_t TableRows(const NgramHash& hash);

}  // namespace mneme
