#include "models/ngram.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <unordered_set>

namespace mneme {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int kPoolWords = 4;
constexpr uint64_t kLayerStride = 10007;  // seed of a layer = hash seed + this · layer id

// The running multiplier of SeedSequence's hash: it persists from word to word.
class WordHash {
 public:
  WordHash(uint32_t start, uint32_t factor) : state_(start), factor_(factor) {}
  uint32_t operator()(uint32_t value) {
    value ^= state_;
    state_ *= factor_;
    value *= state_;
    return value ^ (value >> 16);
  }

 private:
  uint32_t state_, factor_;
};

uint32_t Mix(uint32_t x, uint32_t y) {
  const uint32_t r = 0xca01f9ddu * x - 0x4973f715u * y;
  return r ^ (r >> 16);
}

// PCG64: a 128-bit congruential state, output XSL-RR (O'Neill 2014).
class Pcg64 {
 public:
  explicit Pcg64(uint64_t seed) {
    const auto s = NumpySeed(seed);
    increment_ = (((static_cast<Wide>(s[2]) << 64) | s[3]) << 1) | 1;
    Step();
    state_ += (static_cast<Wide>(s[0]) << 64) | s[1];
    Step();
  }
  uint64_t Next() {
    Step();
    const auto high = static_cast<uint64_t>(state_ >> 64), low = static_cast<uint64_t>(state_);
    return std::rotr(high ^ low, static_cast<int>(state_ >> 122));
  }

 private:
  void Step() {
    constexpr Wide kMultiplier =
        (static_cast<Wide>(2549297995355413924u) << 64) | 4865540595714422341u;
    state_ = state_ * kMultiplier + increment_;
  }

  Wide state_ = 0, increment_ = 0;
};

uint64_t MultiplyMod(uint64_t a, uint64_t b, uint64_t n) {
  return static_cast<uint64_t>(static_cast<Wide>(a) * b % n);
}

uint64_t PowerMod(uint64_t base, uint64_t exponent, uint64_t n) {
  uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = MultiplyMod(result, base, n);
    base = MultiplyMod(base, base, n);
  }
  return result;
}

// Does `base` fail to show that n is composite? n − 1 = odd · 2^twos.
bool MillerRabin(uint64_t base, uint64_t odd, int twos, uint64_t n) {
  uint64_t x = PowerMod(base, odd, n);
  if (x == 1 || x == n - 1) return true;
  for (int i = 1; i < twos; ++i) {
    x = MultiplyMod(x, x, n);
    if (x == n - 1) return true;
  }
  return false;
}

}  // namespace

std::array<uint64_t, 4> NumpySeed(uint64_t seed) {
  const std::array<uint32_t, kPoolWords> entropy = {static_cast<uint32_t>(seed),
                                                    static_cast<uint32_t>(seed >> 32), 0, 0};
  std::array<uint32_t, kPoolWords> pool;
  WordHash hash(0x43b0d7e5u, 0x931e8875u);
  for (size_t i = 0; i < kPoolWords; ++i) pool[i] = hash(entropy[i]);
  for (size_t i = 0; i < kPoolWords; ++i)
    for (size_t j = 0; j < kPoolWords; ++j)
      if (i != j) pool[j] = Mix(pool[j], hash(pool[i]));
  WordHash output(0x8b51f9ddu, 0x58f38dedu);
  std::array<uint64_t, 4> state{};
  for (size_t i = 0; i < 8; ++i)
    state[i / 2] |= static_cast<uint64_t>(output(pool[i % kPoolWords])) << (i % 2 * 32);
  return state;
}

std::vector<uint64_t> NumpyRaw(uint64_t seed, int64_t count) {
  Pcg64 generator(seed);
  std::vector<uint64_t> out(static_cast<size_t>(count));
  for (uint64_t& value : out) value = generator.Next();
  return out;
}

std::vector<int64_t> NumpyIntegers(uint64_t seed, int64_t bound, int64_t count) {
  CHECK_GT(bound, int64_t{1} << 32);  // below, numpy draws from buffered 32-bit words
  Pcg64 generator(seed);
  const auto range = static_cast<uint64_t>(bound);
  const uint64_t threshold = (0 - range) % range;
  std::vector<int64_t> out(static_cast<size_t>(count));
  for (int64_t& value : out) {
    Wide product;
    do product = static_cast<Wide>(generator.Next()) * range;
    while (static_cast<uint64_t>(product) < threshold);
    value = static_cast<int64_t>(product >> 64);
  }
  return out;
}

std::vector<int64_t> NgramMultipliers(int64_t hash_seed, int64_t layer_id, int64_t canonical_vocab,
                                      int64_t count) {
  CHECK_GE(canonical_vocab, 1);
  const int64_t half =
      std::max<int64_t>(1, std::numeric_limits<int64_t>::max() / canonical_vocab / 2);
  const uint64_t seed =
      static_cast<uint64_t>(hash_seed) + kLayerStride * static_cast<uint64_t>(layer_id);
  std::vector<int64_t> out = NumpyIntegers(seed, half, count);
  for (int64_t& m : out) m = 2 * m + 1;
  return out;
}

bool IsPrime(uint64_t n) {
  // These bases decide every n below 3.3e24 (Sorenson and Webster 2015).
  constexpr uint64_t kBases[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  if (n < 2) return false;
  for (const uint64_t p : kBases)
    if (n % p == 0) return n == p;
  const int twos = std::countr_zero(n - 1);
  return std::all_of(std::begin(kBases), std::end(kBases),
                     [&](uint64_t base) { return MillerRabin(base, (n - 1) >> twos, twos, n); });
}

std::vector<std::vector<int64_t>> NgramPrimes(const EngramConfig& config) {
  std::vector<size_t> by_block(config.blocks.size());
  std::iota(by_block.begin(), by_block.end(), size_t{0});
  std::stable_sort(by_block.begin(), by_block.end(),
                   [&](size_t a, size_t b) { return config.blocks[a] < config.blocks[b]; });
  std::unordered_set<int64_t> seen;
  std::vector<std::vector<int64_t>> primes(config.blocks.size());
  for (const size_t layer : by_block) {
    for (size_t o = 0; o < config.orders.size(); ++o) {
      int64_t candidate = config.vocab_size[config.vocab_size.size() == 1 ? 0 : o];
      for (int64_t k = 0; k < config.heads; ++k, ++candidate) {
        while (!IsPrime(static_cast<uint64_t>(candidate)) || seen.contains(candidate)) ++candidate;
        seen.insert(candidate);
        primes[layer].push_back(candidate);
      }
    }
  }
  return primes;
}

std::vector<NgramHash> MakeNgramHashes(const EngramConfig& config, int64_t canonical_vocab,
                                       int64_t pad) {
  const auto primes = NgramPrimes(config);
  const auto& ids = config.hash_layer_ids.empty() ? config.blocks : config.hash_layer_ids;
  CHECK_EQ(ids.size(), config.blocks.size());
  std::vector<NgramHash> hashes;
  for (size_t layer = 0; layer < primes.size(); ++layer) {
    NgramHash hash;
    hash.orders = config.orders;
    hash.heads = config.heads;
    hash.pad = pad;
    hash.multipliers =
        NgramMultipliers(config.hash_seed, ids[layer], canonical_vocab, config.orders.back());
    hash.primes = primes[layer];
    hash.offsets.resize(hash.primes.size());
    std::exclusive_scan(hash.primes.begin(), hash.primes.end(), hash.offsets.begin(), int64_t{0});
    hashes.push_back(std::move(hash));
  }
  return hashes;
}

int64_t TableRows(const NgramHash& hash) {
  return std::accumulate(hash.primes.begin(), hash.primes.end(), int64_t{0});
}

}  // namespace mneme
