#include "engine/sweep/scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "engine/sweep/statistics.h"

namespace mneme {
namespace {

// {1, x} and a column for each seed but the first.
std::optional<LeastSquares> Line(const ScalingData& data, const std::vector<double>& x) {
  const int64_t seeds = 1 + *std::max_element(data.seed.begin(), data.seed.end());
  std::vector<std::vector<double>> rows, plain;
  for (size_t i = 0; i < x.size(); ++i) {
    plain.push_back({1.0, x[i]});
    rows.push_back(plain.back());
    for (int64_t s = 1; s < seeds; ++s) rows.back().push_back(data.seed[i] == s ? 1.0 : 0.0);
  }
  auto line = LeastSquares::Of(rows);
  return line.has_value() && line->freedom() > 0 ? line : LeastSquares::Of(plain);
}

// The level of the mean seed.
double Level(const ScalingData& data, const std::vector<double>& beta) {
  double level = 0.0;
  for (const int64_t seed : data.seed) {
    const size_t at = 1 + static_cast<size_t>(seed);
    if (seed > 0 && at < beta.size()) level += beta[at];
  }
  return beta[0] + level / static_cast<double>(data.seed.size());
}

struct PowerLine {
  double squares = 0.0;
  std::vector<double> beta;
};

std::optional<PowerLine> PowerAt(const ScalingData& data, double exponent) {
  // Sizes in units of the smallest keep the powers near 1.
  const double unit = *std::min_element(data.size.begin(), data.size.end());
  std::vector<double> x;
  for (const double size : data.size) x.push_back(std::pow(size / unit, -exponent));
  const auto line = Line(data, x);
  if (!line.has_value() || line->freedom() < 2) return std::nullopt;
  return PowerLine{line->ResidualSquares(data.loss), line->Solve(data.loss)};
}

void FitFloor(const ScalingData& data, double level, ScalingFit& fit) {
  constexpr int kSteps = 400;
  const auto exponent = [](int i) { return 0.01 * std::pow(500.0, i / double{kSteps}); };
  std::vector<double> squares;
  for (int i = 0; i <= kSteps; ++i) {
    const auto at = PowerAt(data, exponent(i));
    if (!at.has_value()) return;
    squares.push_back(at->squares);
  }
  const auto least = std::min_element(squares.begin(), squares.end());
  const auto best = static_cast<int>(least - squares.begin());
  if (best == 0 || best == kSteps) return;
  const auto at = PowerAt(data, exponent(best));
  const double unit = *std::min_element(data.size.begin(), data.size.end());
  const double freedom = fit.freedom - 1.0;
  fit.has_floor = true;
  fit.floor_exponent.value = exponent(best);
  fit.floor = Level(data, at->beta);
  fit.floor_factor = at->beta[1] * std::pow(unit, exponent(best));
  fit.floor_scatter = std::sqrt(*least / freedom);
  const double t = StudentQuantile(0.5 * (1.0 + level), freedom);
  const double most = *least * (1.0 + t * t / freedom);
  int low = best, high = best;
  while (low > 0 && squares[static_cast<size_t>(low)] <= most) --low;
  while (high < kSteps && squares[static_cast<size_t>(high)] <= most) ++high;
  if (squares[static_cast<size_t>(low)] > most) fit.floor_exponent.low = exponent(low);
  if (squares[static_cast<size_t>(high)] > most) fit.floor_exponent.high = exponent(high);
}

}  // namespace

std::optional<ScalingFit> FitScaling(const ScalingData& data, double level) {
  if (std::set<double>(data.size.begin(), data.size.end()).size() < 3) return std::nullopt;
  std::vector<double> x;
  for (const double size : data.size) x.push_back(std::log10(size));
  const auto line = Line(data, x);
  if (!line.has_value() || line->freedom() < 1) return std::nullopt;
  const std::vector<double> beta = line->Solve(data.loss);
  ScalingFit fit;
  fit.freedom = static_cast<double>(line->freedom());
  const double t = StudentQuantile(0.5 * (1.0 + level), fit.freedom);
  // Half-width of a slope's interval by its own scatter.
  const auto half = [&](double scatter) {
    return t * scatter * std::sqrt(line->Spread({0.0, 1.0}));
  };
  fit.log_scatter = std::sqrt(line->ResidualSquares(data.loss) / fit.freedom);
  fit.intercept = Level(data, beta);
  fit.slope = {beta[1], beta[1] - half(fit.log_scatter), beta[1] + half(fit.log_scatter)};

  std::vector<double> logs;
  for (const double loss : data.loss) logs.push_back(std::log10(loss));
  const std::vector<double> power = line->Solve(logs);
  const double scatter = std::sqrt(line->ResidualSquares(logs) / fit.freedom);
  fit.factor = std::pow(10.0, Level(data, power));
  fit.exponent = {-power[1], -power[1] - half(scatter), -power[1] + half(scatter)};
  fit.power_scatter = scatter * std::numbers::ln10 * Mean(data.loss);
  FitFloor(data, level, fit);
  return fit;
}

}  // namespace mneme
