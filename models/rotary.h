// Rotary frequencies of MLA and their YaRN scaling (docs/mathematics.md). The arithmetic is pure.
#pragma once

#include <cstdint>
#include <vector>

#include "configs/model.h"
#include "models/context.h"

namespace mneme {

// Where YaRN's ramp between left-alone and interpolated pairs begins and ends (pair numbers).
struct YarnRamp {
  double low = 0.0;
  double high = 0.0;
};
// dim: of the rotary part; theta: base of the frequencies. low may exceed high: a step at low.
YarnRamp RampOf(const YarnConfig& yarn, int64_t dim, double theta);

// Radians a position for each of dim/2 pairs; theta^(-2i/dim) where yarn.scale is 1.
std::vector<double> RotaryFrequencies(int64_t dim, double theta, const YarnConfig& yarn);

// mscale^2 = (0.1 f ln(scale) + 1)^2; 1 where yarn.scale is 1.
double YarnScoreScale(const YarnConfig& yarn);

// cos and sin of positions 0 .. length - 1, computed in double, kept accurately on the device; and
// YarnScoreScale.
Rotary MakeRotary(Context& context, int64_t length, const MlaConfig& mla, const YarnConfig& yarn);

}  // namespace mneme
