#include "kernels/core/random.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/core/normal.h"

namespace mneme {
namespace {

using normal::CentredUniform;
using normal::CentreQuantile;
using normal::Half;
using normal::kCentre;
using normal::TailQuantile;

uint64_t Mix(uint64_t z) {  // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

RandomKey MakeKey(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  const uint64_t key = Mix(hash ^ Mix(seed));
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

std::array<uint32_t, 4> PhiloxBlock(RandomKey key, std::array<uint32_t, 4> counter) {
  return normal::Block(key, counter);
}

std::array<uint32_t, 4> Philox(RandomKey key, uint64_t index) {
  return PhiloxBlock(key, {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0});
}

uint64_t RandomBits(RandomKey key, uint64_t index) { return Half(Philox(key, index >> 1), index); }

double RandomUniform(RandomKey key, uint64_t index) {
  return static_cast<double>(RandomBits(key, index) >> 11) * 0x1p-53;
}

// The high word of bits · n: no value is off its share by more than n / 2⁶⁴.
int64_t RandomInt(RandomKey key, uint64_t index, int64_t n) {
  CHECK_GT(n, 0);
  const auto product =
      static_cast<unsigned __int128>(RandomBits(key, index)) * static_cast<unsigned __int128>(n);
  return static_cast<int64_t>(product >> 64);
}

double RandomNormal(RandomKey key, uint64_t index) {
  const double q = CentredUniform(RandomBits(key, index));
  return std::fabs(q) <= kCentre ? CentreQuantile(q) : TailQuantile(q);
}

// In pieces of whole blocks: the uniforms, the centre's rational function for all of them (a loop
// that vectorises), then the one in seven that lies in a tail again. Element by element the
// arithmetic of RandomNormal.
template <class T>
void FillNormal(RandomKey key, uint64_t first, int64_t count, double std, T* out) {
  constexpr int64_t kPiece = 256;
  double q[kPiece];
  double x[kPiece];
  int64_t skip =
      static_cast<int64_t>(first & 1);  // draws of the first block that come before `first`
  uint64_t block = first >> 1;
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min(kPiece, skip + count - done);
    for (int64_t i = 0; i < n; i += 2, ++block) {
      const auto words = Philox(key, block);
      q[i] = CentredUniform(Half(words, 0));
      q[i + 1] = CentredUniform(Half(words, 1));
    }
    for (int64_t i = 0; i < n; ++i) x[i] = CentreQuantile(q[i]);
    for (int64_t i = skip; i < n; ++i) {
      const double normal = std::fabs(q[i]) <= kCentre ? x[i] : TailQuantile(q[i]);
      out[done + i - skip] = static_cast<T>(std * normal);
    }
    done += n - skip;
    skip = 0;
  }
}

template void FillNormal<float>(RandomKey, uint64_t, int64_t, double, float*);
template void FillNormal<double>(RandomKey, uint64_t, int64_t, double, double*);

int64_t Permute(RandomKey key, int64_t index, int64_t n) {
  CHECK_LE(0, index);
  CHECK_LT(index, n);
  if (n == 1) return 0;
  const uint64_t width = (std::bit_width(static_cast<uint64_t>(n - 1)) + 1) / 2;  // bits of a half
  const uint64_t mask = (uint64_t{1} << width) - 1;
  uint64_t value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> width;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t turned = left ^ (RandomBits(key, right << 3 | round) & mask);
      left = right;
      right = turned;
    }
    value = left << width | right;
  } while (value >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(value);
}

}  // namespace mneme
