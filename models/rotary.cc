#include "models/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mneme {

YarnRamp RampOf(const YarnConfig& yarn, int64_t dim, double theta) {
  // The pair that turns `rotations` times within the original length.
  const auto pair = [&](double rotations) {
    const double length = static_cast<double>(yarn.original_length);
    return static_cast<double>(dim) * std::log(length / (2.0 * std::numbers::pi * rotations)) /
           (2.0 * std::log(theta));
  };
  YarnRamp ramp;
  ramp.low = std::max(std::floor(pair(yarn.beta)), 0.0);
  ramp.high = std::min(std::ceil(pair(yarn.alpha)), static_cast<double>(dim - 1));
  return ramp;
}

std::vector<double> RotaryFrequencies(int64_t dim, double theta, const YarnConfig& yarn) {
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  const YarnRamp ramp = RampOf(yarn, dim, theta);
  // An empty ramp is a step at `low`.
  const double width = std::max(ramp.high - ramp.low, 1e-3);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double pair = static_cast<double>(i);
    const double plain = std::pow(theta, -2.0 * pair / static_cast<double>(dim));
    const double share = std::clamp((pair - ramp.low) / width, 0.0, 1.0);
    frequencies[i] = yarn.scale == 1.0 ? plain : plain / yarn.scale * share + plain * (1.0 - share);
  }
  return frequencies;
}

double YarnScoreScale(const YarnConfig& yarn) {
  const double mscale = 0.1 * yarn.mscale * std::log(yarn.scale) + 1.0;
  return yarn.scale == 1.0 ? 1.0 : mscale * mscale;
}

Rotary MakeRotary(Context& context, int64_t length, const MlaConfig& mla, const YarnConfig& yarn) {
  const std::vector<double> frequencies = RotaryFrequencies(mla.qk_rope, mla.rope_theta, yarn);
  const int64_t pairs = static_cast<int64_t>(frequencies.size());
  Rotary rotary;
  rotary.score_scale = YarnScoreScale(yarn);
  rotary.table =
      Tensor::Empty(context.stream, Accurate(context.dtype), {length, pairs, 2}, MemoryTag::kOther);
  if (context.stream.device().dry) return rotary;  // of which nobody reads the angles
  DispatchReal(Accurate(context.dtype), [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> host;
    host.reserve(static_cast<size_t>(length * pairs * 2));
    for (int64_t p = 0; p < length; ++p) {
      for (double frequency : frequencies) {
        const double angle = static_cast<double>(p) * frequency;
        host.push_back(static_cast<T>(std::cos(angle)));
        host.push_back(static_cast<T>(std::sin(angle)));
      }
    }
    Upload(context.stream, host.data(), rotary.table.bytes(), rotary.table);
  });
  return rotary;
}

}  // namespace mneme
