// How loss falls as the tables alone grow. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace mneme {

// Cells of one backbone; sizes above 0.
struct ScalingData {
  std::vector<double> size;
  std::vector<double> loss;
  std::vector<int64_t> seed;  // from 0
};

// A fitted number and its interval; an end that lies beyond what was tried is absent.
struct Estimate {
  double value = 0.0;
  std::optional<double> low, high;
};

struct ScalingFit {
  // loss = intercept + slope log10(size)
  double intercept = 0.0;
  Estimate slope;
  double log_scatter = 0.0;  // standard deviation about it
  // loss = factor size^(−exponent): a line between the logarithms.
  double factor = 0.0;
  Estimate exponent;
  double power_scatter = 0.0;  // of the loss, in nats
  // loss = floor + floor_factor size^(−floor_exponent). False: too few sizes, or no exponent
  // between 0.01 and 5 is better than both its neighbours, so that a floor cannot be told from
  // none.
  bool has_floor = false;
  double floor = 0.0, floor_factor = 0.0;
  Estimate floor_exponent;
  double floor_scatter = 0.0;
  double freedom = 0.0;  // of the log-linear fit
};

// Least squares with a level for each seed; intervals by Student's t, the exponent's by the fit's
// loss of quality (F test). Nothing below three sizes.
std::optional<ScalingFit> FitScaling(const ScalingData& data, double level);

}  // namespace mneme
