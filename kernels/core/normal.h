// The arithmetic behind kernels/core/random.h, written once for every device: Philox, and normals
// by inversion. Templates over the real type (double) so that a CUDA compiler may use them on a
// GPU; there they must be compiled without contraction, as everywhere.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/core/random.h"

namespace mneme::normal {

inline constexpr int kPhiloxRounds = 10;

// The generator itself: four 32-bit words from a counter of four. Ten rounds of two products, the
// key raised by Weyl constants between them.
constexpr std::array<uint32_t, 4> Block(RandomKey key, std::array<uint32_t, 4> c) {
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

// The 64 bits of one of a block's two draws: words 0 and 1 where `index` is even, else 2 and 3.
constexpr uint64_t Half(const std::array<uint32_t, 4>& block, uint64_t index) {
  const uint64_t at = (index & 1) * 2;
  return block[at] | static_cast<uint64_t>(block[at + 1]) << 32;
}

// The upper 53 bits as the middle of one of 2⁵³ equal cells, less 1/2: exact, symmetric, never
// ±1/2.
template <class T = double>
constexpr T CentredUniform(uint64_t bits) {
  const int64_t odd = static_cast<int64_t>(bits >> 11) * 2 + 1 - (int64_t{1} << 53);
  return static_cast<T>(odd) * 0x1p-54;
}

// c[0] + c[1] x + … + c[7] x⁷.
template <class T>
constexpr T Polynomial(const T (&c)[8], T x) {
  T y = c[7];
  for (int i = 6; i >= 0; --i) y = std::fma(y, x, c[i]);
  return y;
}

// Natural logarithm of a positive normal number: log m + e·ln 2 with m near 1, log m = 2 artanh((m
// − 1)/(m + 1)).
template <class T = double>
constexpr T Log(T x) {
  constexpr T kLn2 = 0x1.62e42fefa39efp-1;
  constexpr T kRootHalf = 0x1.6a09e667f3bcdp-1;
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1022;
  T m = std::bit_cast<T>((bits & 0x000fffffffffffffu) | 0x3fe0000000000000u);
  if (m < kRootHalf) {
    m *= 2;
    --exponent;
  }
  const T s = (m - 1) / (m + 1);
  const T z = s * s;
  T y = 1.0 / 23;
  for (int odd = 21; odd >= 1; odd -= 2) y = std::fma(y, z, 1.0 / odd);
  return std::fma(static_cast<T>(exponent), kLn2, 2 * s * y);
}

// Wichura's AS 241 (PPND16) at probability 1/2 + q: the rational functions of the centre and of the
// two tails.
inline constexpr double kCentre = 0.425;

// For |q| <= kCentre: q times a rational function of kCentre² − q².
template <class T = double>
constexpr T CentreQuantile(T q) {
  constexpr T kUp[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                        1.9715909503065514427e+3, 1.3731693765509461125e+4,
                        4.5921953931549871457e+4, 6.7265770927008700853e+4,
                        3.3430575583588128105e+4, 2.5090809287301226727e+3};
  constexpr T kDown[8] = {1.0,
                          4.2313330701600911252e+1,
                          6.8718700749205790830e+2,
                          5.3941960214247511077e+3,
                          2.1213794301586595867e+4,
                          3.9307895800092710610e+4,
                          2.8729085735721942674e+4,
                          5.2264952788528545610e+3};
  const T r = std::fma(-q, q, kCentre * kCentre);
  return q * Polynomial(kUp, r) / Polynomial(kDown, r);
}

// For kCentre < |q| < 1/2: a rational function of r = √(−ln of the tail's probability), one up to
// r = 5 and one beyond, with the sign of q.
template <class T = double>
constexpr T TailQuantile(T q) {
  constexpr T kNearUp[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                            5.76949722146069140550e0,  3.64784832476320460504e0,
                            1.27045825245236838258e0,  2.41780725177450611770e-1,
                            2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr T kNearDown[8] = {1.0,
                              2.05319162663775882187e0,
                              1.67638483018380384940e0,
                              6.89767334985100004550e-1,
                              1.48103976427480074590e-1,
                              1.51986665636164571966e-2,
                              5.47593808499534494600e-4,
                              1.05075007164441684324e-9};
  constexpr T kFarUp[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                           1.78482653991729133580e0,  2.96560571828504891230e-1,
                           2.65321895265761230930e-2, 1.24266094738807843860e-3,
                           2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr T kFarDown[8] = {1.0,
                             5.99832206555887937690e-1,
                             1.36929880922735805310e-1,
                             1.48753612908506148525e-2,
                             7.86869131145613259100e-4,
                             1.84631831751005468180e-5,
                             1.42151175831644588870e-7,
                             2.04426310338993978564e-15};
  const T r = std::sqrt(-Log(0.5 - std::fabs(q)));
  const T x = r <= 5 ? Polynomial(kNearUp, r - 1.6) / Polynomial(kNearDown, r - 1.6)
                     : Polynomial(kFarUp, r - 5) / Polynomial(kFarDown, r - 5);
  return q < 0 ? -x : x;
}

}  // namespace mneme::normal
