// Curves through loss over rho: three forms, the place of the minimum of each, and an interval for
// it. Pure functions.
//
// The interval is a test turned round (Fieller 1954): a place m belongs to it where the fitted
// slope at m, which is linear in the coefficients, is no further from 0 than noise makes it. For a
// form with a shape of its own, the shape is fitted again at each m.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace mneme {

// The cells of one budget, one entry a cell; seeds numbered from 0.
struct CurveData {
  std::vector<double> rho;
  std::vector<double> loss;
  std::vector<int64_t> seed;
  // Losses of the same cells under other draws of the held-out documents; empty without them.
  std::vector<std::vector<double>> redrawn;
};

// L(rho) = Σ beta_i basis_i(rho; shape).
struct CurveForm {
  std::string name;
  std::string formula;
  std::vector<double> shapes;  // tried values of the shape; one where the form has none
  std::function<std::vector<double>(double rho, double shape)> basis;
  std::function<std::vector<double>(double rho, double shape)> slope;  // of basis, by rho
  double lowest = -1e9, highest = 1e9;  // where it is defined for every shape
};

// "quadratic", "cubic" (in the coordinate: rho, or its logarithm) and "two logs",
// a − b ln(rho + d) − c ln(1 − rho + d): what experts and tables each give with its logarithm.
std::vector<CurveForm> CurveForms(const std::string& coordinate, double low, double high);

// How far cells scatter, once each seed's own level is taken out.
struct CurveNoise {
  double seed_sd = 0.0;  // between cells of one rho; 0 without two of one
  double seed_freedom = 0.0;
};

struct CurveFit {
  std::string name, formula;
  std::vector<double> beta;  // of the form, at the mean level of the seeds
  double shape = 0.0;
  double scatter = 0.0;  // standard deviation of a cell that the interval is made of
  double freedom = 0.0;
  double misfit_p = 1.0;  // chance of this much scatter of the means about the curve; 1: unknown
  std::optional<double> minimum;  // inside the range of rho; nothing where the least is at an end
  double loss = 0.0;              // there
  // Ends of the interval; nothing where it has none within one range beyond the cells' own.
  std::optional<double> low, high;
  bool inside = false;            // the interval lies within the range of rho
  std::vector<double> line;       // the curve at the places of `CurvePlaces`
  std::vector<double> band;       // half-width of its pointwise interval there
  std::vector<double> residuals;  // a cell
};

// 101 places over [low, high].
std::vector<double> CurvePlaces(double low, double high);
// Columns beside the form's: one for each seed but the first, where they can be told apart.
CurveNoise NoiseOf(const CurveData& data);
// Means by rho in rising order, seeds' levels taken out.
struct CurvePoint {
  double rho = 0.0;
  int64_t cells = 0;
  double mean = 0.0;
  double sd = 0.0;  // between its cells, 0 for one
};
std::vector<CurvePoint> PointsOf(const CurveData& data);
// Nothing where there are too few cells for the form.
std::optional<CurveFit> FitCurve(const CurveData& data, const CurveForm& form, double level);

}  // namespace mneme
