#include "kernels/core/random.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int kPhiloxRounds = 10;

uint64_t Mix(uint64_t z) {  // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// c[0] + c[1] x + … + c[7] x⁷.
double Polynomial(const double (&c)[8], double x) {
  double y = c[7];
  for (int i = 6; i >= 0; --i) y = std::fma(y, x, c[i]);
  return y;
}

// Natural logarithm of a positive normal number: log m + e·ln 2 with m near 1, log m = 2 artanh((m
// − 1)/(m + 1)).
double Log(double x) {
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  constexpr double kRootHalf = 0x1.6a09e667f3bcdp-1;
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1022;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3fe0000000000000u);
  if (m < kRootHalf) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  const double z = s * s;
  double y = 1.0 / 23;
  for (int odd = 21; odd >= 1; odd -= 2) y = std::fma(y, z, 1.0 / odd);
  return std::fma(static_cast<double>(exponent), kLn2, 2 * s * y);
}

// Wichura's AS 241 (PPND16) at probability 1/2 + q: the rational functions of the centre and of the
// two tails.
constexpr double kCentreUp[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                                 1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                 3.3430575583588128105e+4, 2.5090809287301226727e+3};
constexpr double kCentreDown[8] = {1.0,
                                   4.2313330701600911252e+1,
                                   6.8718700749205790830e+2,
                                   5.3941960214247511077e+3,
                                   2.1213794301586595867e+4,
                                   3.9307895800092710610e+4,
                                   2.8729085735721942674e+4,
                                   5.2264952788528545610e+3};
constexpr double kNearUp[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                               5.76949722146069140550e0,  3.64784832476320460504e0,
                               1.27045825245236838258e0,  2.41780725177450611770e-1,
                               2.27238449892691845833e-2, 7.74545014278341407640e-4};
constexpr double kNearDown[8] = {1.0,
                                 2.05319162663775882187e0,
                                 1.67638483018380384940e0,
                                 6.89767334985100004550e-1,
                                 1.48103976427480074590e-1,
                                 1.51986665636164571966e-2,
                                 5.47593808499534494600e-4,
                                 1.05075007164441684324e-9};
constexpr double kFarUp[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                              1.78482653991729133580e0,  2.96560571828504891230e-1,
                              2.65321895265761230930e-2, 1.24266094738807843860e-3,
                              2.71155556874348757815e-5, 2.01033439929228813265e-7};
constexpr double kFarDown[8] = {1.0,
                                5.99832206555887937690e-1,
                                1.36929880922735805310e-1,
                                1.48753612908506148525e-2,
                                7.86869131145613259100e-4,
                                1.84631831751005468180e-5,
                                1.42151175831644588870e-7,
                                2.04426310338993978564e-15};
constexpr double kCentre = 0.425;

double CentreQuantile(double q) {
  const double r = std::fma(-q, q, kCentre * kCentre);
  return q * Polynomial(kCentreUp, r) / Polynomial(kCentreDown, r);
}

double TailQuantile(double q) {
  const double r = std::sqrt(-Log(0.5 - std::fabs(q)));
  const double x = r <= 5 ? Polynomial(kNearUp, r - 1.6) / Polynomial(kNearDown, r - 1.6)
                          : Polynomial(kFarUp, r - 5) / Polynomial(kFarDown, r - 5);
  return q < 0 ? -x : x;
}

// The upper 53 bits as the middle of one of 2⁵³ equal cells, less 1/2: exact, symmetric, never
// ±1/2.
double CentredUniform(uint64_t bits) {
  const int64_t odd = static_cast<int64_t>(bits >> 11) * 2 + 1 - (int64_t{1} << 53);
  return static_cast<double>(odd) * 0x1p-54;
}

uint64_t Half(const std::array<uint32_t, 4>& block, uint64_t index) {
  const size_t at = (index & 1) * 2;
  return block[at] | static_cast<uint64_t>(block[at + 1]) << 32;
}

}  // namespace

RandomKey MakeKey(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  const uint64_t key = Mix(hash ^ Mix(seed));
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

std::array<uint32_t, 4> PhiloxBlock(RandomKey key, std::array<uint32_t, 4> c) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t a = uint64_t{0xd2511f53u} * c[0];
    const uint64_t b = uint64_t{0xcd9e8d57u} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key.k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ key.k1, static_cast<uint32_t>(a)};
    key.k0 += 0x9e3779b9u;
    key.k1 += 0xbb67ae85u;
  }
  return c;
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
