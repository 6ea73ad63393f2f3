#include "engine/sweep/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/core/check.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

// The continued fraction of the incomplete beta function, by the modified Lentz scheme
// (DLMF 8.17.22).
double BetaFraction(double a, double b, double x) {
  double c = 1.0, d = 1.0 / (1.0 - (a + b) * x / (a + 1.0)), h = d;
  for (int m = 1; m < 500; ++m) {
    const double k = m;
    const double even = k * (b - k) * x / ((a + 2.0 * k - 1.0) * (a + 2.0 * k));
    d = 1.0 / (1.0 + even * d);
    c = 1.0 + even / c;
    h *= d * c;
    const double odd = -(a + k) * (a + b + k) * x / ((a + 2.0 * k) * (a + 2.0 * k + 1.0));
    d = 1.0 / (1.0 + odd * d);
    c = 1.0 + odd / c;
    h *= d * c;
    if (std::fabs(d * c - 1.0) < 1e-14) break;
  }
  return h;
}

// The regularised incomplete beta function I_x(a, b).
double IncompleteBeta(double a, double b, double x) {
  if (x <= 0.0) return 0.0;
  if (x >= 1.0) return 1.0;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1.0) / (a + b + 2.0)) return front * BetaFraction(a, b, x) / a;
  return 1.0 - front * BetaFraction(b, a, 1.0 - x) / b;
}

double StudentBelow(double t, double freedom) {
  if (std::isinf(freedom)) return 0.5 * std::erfc(-t / std::numbers::sqrt2);
  return 1.0 - 0.5 * IncompleteBeta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
}

struct Isotonic {
  std::vector<double> fit;
  double squares = 0.0;  // weighted
};

// The falling curve nearest to the values: neighbours that rise are pooled.
Isotonic Falling(const std::vector<double>& values, const std::vector<double>& weights) {
  struct Block {
    double mean, weight;
    size_t count;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < values.size(); ++i) {
    blocks.push_back({values[i], weights[i], 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean < blocks.back().mean) {
      const Block last = blocks.back();
      blocks.pop_back();
      Block& before = blocks.back();
      before.mean =
          (before.mean * before.weight + last.mean * last.weight) / (before.weight + last.weight);
      before.weight += last.weight;
      before.count += last.count;
    }
  }
  Isotonic result;
  for (const Block& block : blocks) {
    for (size_t k = 0; k < block.count; ++k) {
      const double off = values[result.fit.size()] - block.mean;
      result.squares += weights[result.fit.size()] * off * off;
      result.fit.push_back(block.mean);
    }
  }
  return result;
}

// The part [begin, end), backwards or not.
double FallingSquares(const std::vector<double>& values, const std::vector<double>& weights,
                      size_t begin, size_t end, bool backwards) {
  std::vector<double> v(values.begin() + static_cast<int64_t>(begin),
                        values.begin() + static_cast<int64_t>(end));
  std::vector<double> w(weights.begin() + static_cast<int64_t>(begin),
                        weights.begin() + static_cast<int64_t>(end));
  if (backwards) {
    std::reverse(v.begin(), v.end());
    std::reverse(w.begin(), w.end());
  }
  return Falling(v, w).squares;
}

// Σ of the best curve that falls and then rises.
double ValleySquares(const std::vector<double>& values, const std::vector<double>& weights) {
  double best = std::numeric_limits<double>::infinity();
  for (size_t cut = 0; cut <= values.size(); ++cut) {
    best = std::min(best, FallingSquares(values, weights, 0, cut, false) +
                              FallingSquares(values, weights, cut, values.size(), true));
  }
  return best;
}

double Excess(const std::vector<double>& values, const std::vector<double>& weights) {
  return Falling(values, weights).squares - ValleySquares(values, weights);
}

// The chance that a truly falling curve looks at least as little falling as `means`.
double FallingChance(const std::vector<double>& means, const std::vector<double>& weights,
                     double variance, double freedom, const RandomKey& key) {
  constexpr int kDraws = 999;
  const double seen = Excess(means, weights) / variance;
  const std::vector<double> truth = Falling(means, weights).fit;
  const auto noise_draws = static_cast<int64_t>(std::min(std::ceil(freedom), 60.0));
  uint64_t draw = 0;
  int at_least = 0;
  for (int d = 0; d < kDraws; ++d) {
    std::vector<double> values = truth;
    for (size_t i = 0; i < values.size(); ++i)
      values[i] += std::sqrt(variance / weights[i]) * RandomNormal(key, draw++);
    // The noise is an estimate too.
    double squares = 0.0;
    for (int64_t k = 0; k < noise_draws; ++k) {
      const double normal = RandomNormal(key, draw++);
      squares += normal * normal;
    }
    const double estimate = variance * squares / static_cast<double>(noise_draws);
    if (Excess(values, weights) >= seen * estimate) ++at_least;
  }
  return (at_least + 1.0) / (kDraws + 1.0);
}

}  // namespace

double StudentQuantile(double p, double freedom) {
  double low = 0.0, high = 1.0;
  while (StudentBelow(high, freedom) < p && high < 1e12) high *= 2.0;
  for (int i = 0; i < 200 && high - low > 1e-13 * high; ++i) {
    const double middle = 0.5 * (low + high);
    (StudentBelow(middle, freedom) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

double FisherTail(double f, double a, double b) {
  return f <= 0.0 ? 1.0 : IncompleteBeta(b / 2.0, a / 2.0, b / (b + a * f));
}

std::optional<LeastSquares> LeastSquares::Of(const std::vector<std::vector<double>>& rows) {
  if (rows.empty() || rows.size() < rows.front().size()) return std::nullopt;
  const size_t n = rows.size(), p = rows.front().size();
  LeastSquares result;
  result.points_ = static_cast<int64_t>(n);
  result.r_.assign(p, std::vector<double>(p));
  for (size_t j = 0; j < p; ++j) {
    std::vector<double> column(n);
    for (size_t i = 0; i < n; ++i) column[i] = rows[i][j];
    const double whole = std::sqrt(Dot(column, column));
    // Twice is enough: the second pass takes out what rounding left of the first.
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t k = 0; k < j; ++k) {
        const double along = Dot(result.q_[k], column);
        result.r_[k][j] += along;
        for (size_t i = 0; i < n; ++i) column[i] -= along * result.q_[k][i];
      }
    }
    const double rest = std::sqrt(Dot(column, column));
    if (!(rest > 1e-9 * whole)) return std::nullopt;
    result.r_[j][j] = rest;
    for (double& value : column) value /= rest;
    result.q_.push_back(std::move(column));
  }
  return result;
}

std::vector<double> LeastSquares::Solve(const std::vector<double>& y) const {
  std::vector<double> beta(r_.size());
  for (size_t j = r_.size(); j-- > 0;) {
    double value = Dot(q_[j], y);
    for (size_t k = j + 1; k < r_.size(); ++k) value -= r_[j][k] * beta[k];
    beta[j] = value / r_[j][j];
  }
  return beta;
}

double LeastSquares::ResidualSquares(const std::vector<double>& y) const {
  std::vector<double> rest = y;
  for (const std::vector<double>& q : q_) {
    const double along = Dot(q, rest);
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= along * q[i];
  }
  return Dot(rest, rest);
}

double LeastSquares::Spread(const std::vector<double>& v) const {
  // |R⁻ᵀ v|², by forward substitution.
  std::vector<double> z(r_.size());
  for (size_t j = 0; j < r_.size(); ++j) {
    double value = j < v.size() ? v[j] : 0.0;
    for (size_t k = 0; k < j; ++k) value -= r_[k][j] * z[k];
    z[j] = value / r_[j][j];
  }
  return Dot(z, z);
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += a[i] * b[i];
  return sum;
}

double Mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

double Variance(const std::vector<double>& values) {
  if (values.size() < 2) return 0.0;
  const double mean = Mean(values);
  double sum = 0.0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return sum / static_cast<double>(values.size() - 1);
}

MonotoneTest TestMonotone(const std::vector<double>& means, const std::vector<double>& weights,
                          double variance, double freedom) {
  CHECK_EQ(means.size(), weights.size());
  CHECK_GT(variance, 0.0);
  const RandomKey key = MakeKey(0, "sweep.monotone");
  MonotoneTest test;
  test.falling = FallingChance(means, weights, variance, freedom, key);
  std::vector<double> back(means.rbegin(), means.rend());
  std::vector<double> back_weights(weights.rbegin(), weights.rend());
  test.rising = FallingChance(back, back_weights, variance, freedom, key);
  return test;
}

}  // namespace mneme
