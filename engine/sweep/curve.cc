#include "engine/sweep/curve.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "engine/sweep/statistics.h"

namespace mneme {
namespace {

constexpr int kPlaces = 2000;          // of a scan over the range of rho
constexpr double kMisfitLevel = 0.05;  // beyond it, scatter about the curve is what counts

using Rows = std::vector<std::vector<double>>;

// Appends to each row a column for each seed but the first.
void AddSeeds(const CurveData& data, Rows& rows) {
  const int64_t seeds = 1 + *std::max_element(data.seed.begin(), data.seed.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t s = 1; s < seeds; ++s) rows[i].push_back(data.seed[i] == s ? 1.0 : 0.0);
  }
}

// With the seeds' columns where they can be told from the rest.
std::optional<LeastSquares> Design(const CurveData& data, const Rows& rows) {
  Rows with_seeds = rows;
  AddSeeds(data, with_seeds);
  auto design = LeastSquares::Of(with_seeds);
  if (design.has_value() && design->freedom() > 0) return design;
  design = LeastSquares::Of(rows);
  return design.has_value() && design->freedom() > 0 ? std::move(design) : std::nullopt;
}

Rows BasisRows(const CurveData& data, const CurveForm& form, double shape) {
  Rows rows;
  for (const double rho : data.rho) rows.push_back(form.basis(rho, shape));
  return rows;
}

std::vector<double> Distinct(const CurveData& data) {
  std::vector<double> rho = data.rho;
  std::sort(rho.begin(), rho.end());
  rho.erase(std::unique(rho.begin(), rho.end()), rho.end());
  return rho;
}

// A mean for each rho instead of a curve.
Rows MeanRows(const CurveData& data) {
  const std::vector<double> distinct = Distinct(data);
  Rows rows;
  for (const double rho : data.rho) {
    std::vector<double> row(distinct.size());
    row[static_cast<size_t>(std::lower_bound(distinct.begin(), distinct.end(), rho) -
                            distinct.begin())] = 1.0;
    rows.push_back(std::move(row));
  }
  return rows;
}

// The seeds' mean level among a design's coefficients, `columns` of which are not seeds.
double SeedLevel(const CurveData& data, const std::vector<double>& beta, size_t columns) {
  double level = 0.0;
  for (const int64_t seed : data.seed) {
    const size_t at = columns + static_cast<size_t>(seed) - 1;
    if (seed > 0 && at < beta.size()) level += beta[at];
  }
  return level / static_cast<double>(data.seed.size());
}

// A form fitted at one shape.
struct Fitted {
  double shape = 0.0;
  LeastSquares design;
  std::vector<double> beta;
  double squares = 0.0;
};

class Fitter {
 public:
  Fitter(const CurveData& data, const CurveForm& form, double level)
      : data_(data), form_(form), level_(level) {
    const std::vector<double> distinct = Distinct(data);
    low_ = distinct.front();
    high_ = distinct.back();
    points_ = static_cast<int64_t>(distinct.size());
  }

  std::optional<CurveFit> Fit() {
    for (const double shape : form_.shapes) {
      auto design = Design(data_, BasisRows(data_, form_, shape));
      if (!design.has_value()) continue;
      Fitted fitted{shape, *design, design->Solve(data_.loss), design->ResidualSquares(data_.loss)};
      if (fits_.empty() || fitted.squares < fits_[best_].squares) best_ = fits_.size();
      fits_.push_back(std::move(fitted));
    }
    // A shape that was chosen by the data has used up a degree of freedom.
    shape_parameters_ = form_.shapes.size() > 1 ? 1 : 0;
    columns_ = form_.basis(low_, form_.shapes.front()).size();
    const auto used = static_cast<int64_t>(columns_) + shape_parameters_;
    if (fits_.empty() || best().design.freedom() <= shape_parameters_ || points_ <= used)
      return std::nullopt;
    fit_.name = form_.name;
    fit_.formula = form_.formula;
    fit_.shape = best().shape;
    fit_.beta.assign(best().beta.begin(), best().beta.begin() + static_cast<int64_t>(columns_));
    fit_.beta.front() += SeedLevel(data_, best().beta, columns_);
    ChooseNoise();
    RedrawCoefficients();
    FindMinimum();
    if (fit_.minimum.has_value()) FindInterval();
    Draw();
    return std::move(fit_);
  }

 private:
  const Fitted& best() const { return fits_[best_]; }

  // Seeds alone, or the scatter about the curve where it is more than seeds explain.
  void ChooseNoise() {
    const double freedom = static_cast<double>(best().design.freedom() - shape_parameters_);
    fit_.freedom = freedom;
    double variance = best().squares / freedom;
    const CurveNoise noise = NoiseOf(data_);
    const double pure = noise.seed_sd * noise.seed_sd * noise.seed_freedom;
    const double off_freedom = freedom - noise.seed_freedom;
    if (noise.seed_freedom > 0.0 && pure > 0.0 && off_freedom > 0.0) {
      const double off = std::max(0.0, best().squares - pure) / off_freedom;
      fit_.misfit_p = FisherTail(off * noise.seed_freedom / pure, off_freedom, noise.seed_freedom);
      if (fit_.misfit_p < kMisfitLevel) {
        variance = off;
        fit_.freedom = off_freedom;
      }
    }
    // Points exactly on a curve leave rounding, not 0.
    fit_.scatter = std::sqrt(std::max(variance, 1e-24));
  }

  void RedrawCoefficients() {
    for (const std::vector<double>& losses : data_.redrawn)
      redrawn_.push_back(best().design.Solve(losses));
  }

  double CurveAt(double rho) const { return Dot(form_.basis(rho, fit_.shape), fit_.beta); }
  double SlopeAt(double rho) const { return Dot(form_.slope(rho, fit_.shape), fit_.beta); }

  // Variance of vᵀβ that redrawn documents make.
  double DocumentVariance(const std::vector<double>& v) const {
    std::vector<double> values;
    for (const std::vector<double>& beta : redrawn_) values.push_back(Dot(v, beta));
    return Variance(values);
  }

  void FindMinimum() {
    int least = 0;
    double value = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= kPlaces; ++i) {
      const double here = CurveAt(Place(i));
      if (here < value) value = here, least = i;
    }
    if (least == 0 || least == kPlaces) return;
    double left = Place(least - 1), right = Place(least + 1);
    for (int i = 0; i < 80; ++i) {
      const double middle = 0.5 * (left + right);
      (SlopeAt(middle) < 0.0 ? left : right) = middle;
    }
    fit_.minimum = 0.5 * (left + right);
    fit_.loss = CurveAt(*fit_.minimum);
  }

  double Place(int i) const { return low_ + (high_ - low_) * i / kPlaces; }

  // Whether noise may have put the minimum at m.
  bool MayBeAt(double m) const {
    double least = std::numeric_limits<double>::infinity();
    for (const Fitted& fitted : fits_) {
      const std::vector<double> slope = form_.slope(m, fitted.shape);
      const double value = Dot(slope, fitted.beta);
      least = std::min(least, fitted.squares + value * value / fitted.design.Spread(slope));
    }
    const double excess = least - best().squares;
    const std::vector<double> slope = form_.slope(m, best().shape);
    const double fitted = fit_.scatter * fit_.scatter * best().design.Spread(slope);
    const double documents = DocumentVariance(slope);
    const double t = StudentQuantile(0.5 * (1.0 + level_), Freedom(fitted, documents));
    return excess <= t * t * fit_.scatter * fit_.scatter * (1.0 + documents / fitted);
  }

  // Of a sum of two variances (Satterthwaite).
  double Freedom(double fitted, double documents) const {
    if (documents <= 0.0) return fit_.freedom;
    const double sum = fitted + documents;
    const double more = static_cast<double>(std::max<size_t>(redrawn_.size(), 2) - 1);
    return sum * sum / (fitted * fitted / fit_.freedom + documents * documents / more);
  }

  // Walks from the minimum until noise no longer explains the place, then halves the last step.
  std::optional<double> End(double direction) const {
    const double step = direction * (high_ - low_) / 400.0;
    const double limit = direction > 0.0 ? std::min(high_ + (high_ - low_), form_.highest)
                                         : std::max(low_ - (high_ - low_), form_.lowest);
    double in = *fit_.minimum;
    double out = in + step;
    while ((limit - out) * direction > 0.0 && MayBeAt(out)) in = out, out += step;
    if ((limit - out) * direction <= 0.0) return std::nullopt;
    for (int i = 0; i < 40; ++i) {
      const double middle = 0.5 * (in + out);
      (MayBeAt(middle) ? in : out) = middle;
    }
    return 0.5 * (in + out);
  }

  void FindInterval() {
    fit_.low = End(-1.0);
    fit_.high = End(1.0);
    fit_.inside =
        fit_.low.has_value() && fit_.high.has_value() && *fit_.low > low_ && *fit_.high < high_;
  }

  void Draw() {
    const double variance = fit_.scatter * fit_.scatter;
    for (const double rho : CurvePlaces(low_, high_)) {
      const std::vector<double> basis = form_.basis(rho, fit_.shape);
      const double fitted = variance * best().design.Spread(basis);
      const double t = StudentQuantile(0.5 * (1.0 + level_), fit_.freedom);
      fit_.line.push_back(CurveAt(rho));
      fit_.band.push_back(t * std::sqrt(fitted));
    }
    for (size_t i = 0; i < data_.rho.size(); ++i) {
      const size_t at = columns_ + static_cast<size_t>(data_.seed[i]) - 1;
      double level = data_.seed[i] > 0 && at < best().beta.size() ? best().beta[at] : 0.0;
      level -= SeedLevel(data_, best().beta, columns_);
      fit_.residuals.push_back(data_.loss[i] - level - CurveAt(data_.rho[i]));
    }
  }

  const CurveData& data_;
  const CurveForm& form_;
  const double level_;
  double low_ = 0.0, high_ = 0.0;
  int64_t points_ = 0;  // distinct values of rho
  size_t columns_ = 0;
  int64_t shape_parameters_ = 0;
  std::vector<Fitted> fits_;
  size_t best_ = 0;
  Rows redrawn_;  // coefficients under other documents
  CurveFit fit_;
};

// Powers of the coordinate, scaled to [−1, 1] over the cells.
CurveForm Polynomial(const std::string& name, int degree, bool logarithm, double low, double high) {
  const auto place = [logarithm](double rho) { return logarithm ? std::log(rho) : rho; };
  const double middle = 0.5 * (place(low) + place(high));
  const double half = high > low ? 0.5 * (place(high) - place(low)) : 1.0;
  CurveForm form;
  form.name = name;
  const std::string x = logarithm ? "ln rho" : "rho";
  form.formula = "a + b x + c x^2" + std::string(degree > 2 ? " + d x^3" : "") + ", x = " + x;
  form.shapes = {0.0};
  if (logarithm) form.lowest = 1e-3 * low;
  form.basis = [=](double rho, double) {
    std::vector<double> powers{1.0};
    const double u = (place(rho) - middle) / half;
    for (int k = 1; k <= degree; ++k) powers.push_back(powers.back() * u);
    return powers;
  };
  form.slope = [=](double rho, double) {
    const double u = (place(rho) - middle) / half;
    const double inner = (logarithm ? 1.0 / rho : 1.0) / half;
    std::vector<double> slopes{0.0};
    double power = 1.0;
    for (int k = 1; k <= degree; ++k, power *= u) slopes.push_back(k * power * inner);
    return slopes;
  };
  return form;
}

CurveForm TwoLogs() {
  CurveForm form;
  form.name = "two logs";
  form.formula = "a - b ln(rho + d) - c ln(1 - rho + d)";
  for (double d = 0.005; d < 0.6; d *= 1.3) form.shapes.push_back(d);
  form.lowest = 0.0;
  form.highest = 1.0;
  form.basis = [](double rho, double d) {
    return std::vector<double>{1.0, std::log(rho + d), std::log(1.0 - rho + d)};
  };
  form.slope = [](double rho, double d) {
    return std::vector<double>{0.0, 1.0 / (rho + d), -1.0 / (1.0 - rho + d)};
  };
  return form;
}

}  // namespace

std::vector<CurveForm> CurveForms(const std::string& coordinate, double low, double high) {
  const bool logarithm = coordinate == "log_rho";
  return {Polynomial("quadratic", 2, logarithm, low, high),
          Polynomial("cubic", 3, logarithm, low, high), TwoLogs()};
}

std::vector<double> CurvePlaces(double low, double high) {
  std::vector<double> places;
  for (int i = 0; i <= 100; ++i) places.push_back(low + (high - low) * i / 100.0);
  return places;
}

CurveNoise NoiseOf(const CurveData& data) {
  const auto design = Design(data, MeanRows(data));
  if (!design.has_value()) return {};
  const auto freedom = static_cast<double>(design->freedom());
  return {std::sqrt(design->ResidualSquares(data.loss) / freedom), freedom};
}

std::vector<CurvePoint> PointsOf(const CurveData& data) {
  const std::vector<double> distinct = Distinct(data);
  std::vector<double> beta;
  Rows rows = MeanRows(data);
  const auto design = Design(data, rows);
  if (design.has_value()) {
    beta = design->Solve(data.loss);
  } else if (const auto plain = LeastSquares::Of(rows)) {
    beta = plain->Solve(data.loss);  // a cell a rho
  }
  const double level = SeedLevel(data, beta, distinct.size());
  std::vector<CurvePoint> points;
  for (size_t k = 0; k < distinct.size(); ++k) {
    std::vector<double> own;
    for (size_t i = 0; i < data.rho.size(); ++i) {
      if (data.rho[i] == distinct[k]) own.push_back(data.loss[i]);
    }
    points.push_back(
        {distinct[k], static_cast<int64_t>(own.size()), beta[k] + level, std::sqrt(Variance(own))});
  }
  return points;
}

std::optional<CurveFit> FitCurve(const CurveData& data, const CurveForm& form, double level) {
  if (data.rho.empty()) return std::nullopt;
  return Fitter(data, form, level).Fit();
}

}  // namespace mneme
