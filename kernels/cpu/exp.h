// The exponential function as straight-line code, so that loops over it vectorise.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace mneme::cpu {

// eˣ within 2 units in the last place for x in [−87.3, 88]; 0 below, e⁸⁸ above (the callers'
// arguments are at most 0, or end in 1 / (1 + eˣ)); not a number stays so. x = n·ln 2 + r, and a
// polynomial on |r| <= ln 2 / 2.
inline float Exp(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  const float bounded = x > 88.0f ? 88.0f : x;
  const float n = std::rint(bounded * kLog2E);
  const float r = (bounded - n * kLn2High) - n * kLn2Low;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const float power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.3f ? 0.0f : y * power;
}

// As the library has it: f64 is for reference runs.
inline double Exp(double x) { return std::exp(x); }

}  // namespace mneme::cpu
