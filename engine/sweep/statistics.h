// The few pieces of statistics that a fit rests on. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace mneme {

// The value that Student's t with `freedom` degrees of freedom stays below with probability p.
// REQUIRES: 0.5 <= p < 1, freedom > 0 (infinity: the normal distribution).
double StudentQuantile(double p, double freedom);
// P(F >= f) of Fisher's distribution with (a, b) degrees of freedom.
double FisherTail(double f, double a, double b);

// Least squares by modified Gram-Schmidt, so that one design answers many right-hand sides.
class LeastSquares {
 public:
  // rows: n of p values. Nothing where n < p or the columns depend on each other.
  static std::optional<LeastSquares> Of(const std::vector<std::vector<double>>& rows);

  int64_t parameters() const { return static_cast<int64_t>(r_.size()); }
  int64_t freedom() const { return points_ - parameters(); }
  std::vector<double> Solve(const std::vector<double>& y) const;
  // Σ (y − X β)², from what of y is outside the columns' space.
  double ResidualSquares(const std::vector<double>& y) const;
  // vᵀ (XᵀX)⁻¹ v. `v` may be shorter than the parameters: the rest counts as 0.
  double Spread(const std::vector<double>& v) const;

 private:
  int64_t points_ = 0;
  std::vector<std::vector<double>> q_;  // [p][n], orthonormal
  std::vector<std::vector<double>> r_;  // [p][p], upper triangular
};

double Dot(const std::vector<double>& a, const std::vector<double>& b);  // over the shorter
double Mean(const std::vector<double>& values);
double Variance(const std::vector<double>& values);  // about the mean, n − 1; 0 below two values

// How much worse the best falling (rising) curve explains `means` than the best curve that falls
// and then rises, as the probability that noise makes at least that difference where the truth is
// the falling (rising) curve itself. Form-free: isotonic regression, and 999 draws of means with
// variance/weight of their own and a noise estimate with `freedom` degrees of freedom.
// Deterministic. REQUIRES: means in the order of the coordinate; variance > 0, freedom > 0.
struct MonotoneTest {
  double falling = 1.0;
  double rising = 1.0;
};
MonotoneTest TestMonotone(const std::vector<double>& means, const std::vector<double>& weights,
                          double variance, double freedom);

}  // namespace mneme
