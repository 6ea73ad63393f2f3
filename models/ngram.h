// Engram's addresses, host side: multipliers, primes, table sizes (paper.md 3.2-3.4). Pure functions, no tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/model.h"
#include "kernels/ops/engram.h"

namespace mneme {

// numpy's default_rng(seed).integers(0, bound, size=count): SeedSequence, PCG64, Lemire; bit-exact (paper.md 3.2).
// REQUIRES: bound > 2^32.
std::vector<int64_t> NumpyIntegers(uint64_t seed, int64_t bound, int count);
// The first `count` raw 64-bit outputs of PCG64(seed).
std::vector<uint64_t> NumpyRaw(uint64_t seed, int count);

// Odd multipliers m_0 .. m_{count-1} of one layer over `canonical_vocab` = V'.
std::vector<int64_t> NgramMultipliers(int64_t hash_seed, int64_t layer_id, int64_t canonical_vocab, int count);

// Hash of every Engram layer, in config order: distinct primes over all layers, orders and heads. `pad` and
// `canonical_vocab` come from the data (canonical map), or raw where compression is off.
std::vector<NgramHash> MakeNgramHashes(const EngramConfig& config, int64_t canonical_vocab, int64_t pad);

// Fused rows of one layer.
int64_t TableRows(const NgramHash& hash);

}  // namespace mneme
