// A fit for people in a terminal, and for programs as JSON.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "configs/json_text.h"
#include "configs/text.h"
#include "engine/report/plot.h"
#include "engine/sweep/fit.h"

namespace mneme {
namespace {

std::string Fixed(double value, int digits) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string Padded(const std::string& text, size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}

// "[0.70, 0.76]", with the end that was not found as "...".
std::string IntervalText(const std::optional<double>& low, const std::optional<double>& high,
                         int digits) {
  return "[" + (low ? Fixed(*low, digits) : "...") + ", " + (high ? Fixed(*high, digits) : "...") +
         "]";
}

std::string FormText(const CurveFit& form) {
  std::string out =
      "  " + form.name + std::string(12 - std::min<size_t>(11, form.name.size()), ' ');
  if (form.minimum.has_value()) {
    out += "minimum at rho " + Fixed(*form.minimum, 3) + " " +
           IntervalText(form.low, form.high, 3) + ", loss " + Fixed(form.loss, 4);
  } else {
    out += "no minimum inside the range";
  }
  out += "; scatter " + Fixed(form.scatter, 4);
  if (form.misfit_p < 0.05)
    out += " (more than seeds explain: p = " + NumberText(form.misfit_p) + ")";
  return out + "\n";
}

const Gain* GainAt(const Allocation& allocation, double rho) {
  for (const Gain& gain : allocation.gains) {
    if (gain.rho == rho) return &gain;
  }
  return nullptr;
}

std::string PointsText(const Allocation& allocation) {
  std::string out =
      "     rho  cells    loss      sd   gain over rho " + NumberText(allocation.baseline) + "\n";
  for (const CurvePoint& point : allocation.points) {
    out += Padded(NumberText(point.rho), 8) + Padded(std::to_string(point.cells), 7) +
           Padded(Fixed(point.mean, 4), 9) + Padded(point.cells > 1 ? Fixed(point.sd, 4) : "", 8);
    if (const Gain* gain = GainAt(allocation, point.rho)) {
      out += Padded(Fixed(gain->nats, 4), 10);
      if (gain->half.has_value()) out += " +- " + Fixed(*gain->half, 4);
    }
    out += "\n";
  }
  return out;
}

std::string CurveText(const Allocation& allocation) {
  std::vector<Curve> curves;
  if (!allocation.forms.empty()) {
    Curve line{allocation.forms.front().name, {}};
    const auto places = CurvePlaces(allocation.points.front().rho, allocation.points.back().rho);
    for (size_t i = 0; i < places.size(); ++i)
      line.points.emplace_back(places[i], allocation.forms.front().line[i]);
    curves.push_back(std::move(line));
  }
  Curve means{"mean of the cells", {}};
  for (const CurvePoint& point : allocation.points)
    means.points.emplace_back(point.rho, point.mean);
  curves.push_back(std::move(means));
  return PlotText(curves, 64, 14);
}

std::string PlaceText(double budget, const ColumnValues& at) {
  std::vector<std::string> parts;
  if (budget > 0.0) parts.push_back("budget " + NumberText(budget) + " FLOPs");
  if (!at.empty()) parts.push_back(ColumnValuesText(at));
  return Join(parts, ", ");
}

std::string AllocationText(const Allocation& allocation) {
  const std::string place = PlaceText(allocation.budget, allocation.at);
  std::string out = place.empty() ? "\n" : "\n" + place + "\n";
  out += PointsText(allocation) + "\n" + CurveText(allocation) + "\n";
  for (const CurveFit& form : allocation.forms) out += FormText(form);
  out += "  raw         least mean at rho " + NumberText(allocation.raw_minimum) + "\n";
  if (allocation.noise.seed_freedom > 0.0)
    out += "  seeds       standard deviation " + Fixed(allocation.noise.seed_sd, 4) + " a cell\n";
  return out + allocation.verdict + "\n";
}

std::string ScalingText(const Scaling& scaling) {
  const ScalingFit& fit = scaling.fit;
  std::string out = "\nmemory scaling over " + scaling.column + ", " +
                    (scaling.at.empty() ? "" : ColumnValuesText(scaling.at) + ", ") +
                    std::to_string(scaling.data.size.size()) + " cells\n";
  out += "  log-linear  " + Fixed(fit.slope.value, 5) + " nats a tenfold " +
         IntervalText(fit.slope.low, fit.slope.high, 5) + "; scatter " + Fixed(fit.log_scatter, 4) +
         "\n";
  out += "  power law   exponent " + Fixed(fit.exponent.value, 5) + " " +
         IntervalText(fit.exponent.low, fit.exponent.high, 5) + "; scatter " +
         Fixed(fit.power_scatter, 4) + "\n";
  if (!fit.has_floor) return out + "  with floor  a floor cannot be told from none\n";
  return out + "  with floor  exponent " + Fixed(fit.floor_exponent.value, 3) + " " +
         IntervalText(fit.floor_exponent.low, fit.floor_exponent.high, 3) + ", floor " +
         Fixed(fit.floor, 4) + "; scatter " + Fixed(fit.floor_scatter, 4) + "\n";
}

std::string ComparisonText(const ColumnComparison& comparison) {
  const std::string place = PlaceText(comparison.budget, comparison.at);
  const Contrast& reference = comparison.values.front();
  size_t width = 5;
  for (const Contrast& contrast : comparison.values) width = std::max(width, contrast.value.size());
  std::string out = "\n" + comparison.column + (place.empty() ? "" : " at " + place) + "\n";
  out += Padded("value", width) + "  cells    loss   against " + reference.value + "\n";
  for (const Contrast& contrast : comparison.values) {
    out += Padded(contrast.value, width) + Padded(std::to_string(contrast.cells), 7) +
           Padded(Fixed(contrast.mean, 4), 8);
    if (&contrast != &reference) {
      out += Padded((contrast.difference < 0.0 ? "" : "+") + Fixed(contrast.difference, 4), 10);
      if (contrast.half.has_value()) out += " +- " + Fixed(*contrast.half, 4);
    }
    out += "\n";
  }
  return out;
}

// What an interval is from.
std::string NoiseText(int64_t documents) {
  return documents > 0 ? "seeds and " + std::to_string(documents) + " documents" : "seeds alone";
}

std::string NumberOrNull(const std::optional<double>& value) {
  return value.has_value() ? JsonNumber(*value) : "null";
}

std::string IntervalJson(const std::optional<double>& low, const std::optional<double>& high) {
  return JsonArray(std::vector<std::string>{NumberOrNull(low), NumberOrNull(high)});
}

std::string FormJson(const CurveFit& form) {
  JsonObject json;
  json.Add("name", form.name).Add("formula", form.formula);
  json.AddRaw("minimum", NumberOrNull(form.minimum))
      .AddRaw("interval", IntervalJson(form.low, form.high))
      .AddRaw("loss", form.minimum.has_value() ? JsonNumber(form.loss) : "null")
      .Add("inside", form.inside);
  json.AddRaw("coefficients", JsonArray(form.beta)).Add("shape", form.shape);
  json.Add("scatter", form.scatter).Add("freedom", form.freedom).Add("misfit_p", form.misfit_p);
  return json.Text();
}

std::string ColumnsJson(const ColumnValues& at) {
  JsonObject json;
  for (const auto& [name, value] : at) json.Add(name, value);
  return json.Text();
}

JsonObject AllocationJson(const Allocation& allocation) {
  std::vector<std::string> points, gains, forms;
  for (const CurvePoint& point : allocation.points) {
    JsonObject json;
    json.Add("rho", point.rho).Add("cells", point.cells).Add("mean", point.mean);
    points.push_back(json.AddRaw("sd", point.cells > 1 ? JsonNumber(point.sd) : "null").Text());
  }
  for (const Gain& gain : allocation.gains) {
    JsonObject json;
    json.Add("rho", gain.rho).Add("nats", gain.nats).Add("seed_error", gain.seed_error);
    json.Add("document_error", gain.document_error).AddRaw("half_width", NumberOrNull(gain.half));
    gains.push_back(json.Text());
  }
  for (const CurveFit& form : allocation.forms) forms.push_back(FormJson(form));
  const CurveFit none, &first = allocation.forms.empty() ? none : allocation.forms.front();
  JsonObject json;
  json.AddRaw("budget", allocation.budget > 0.0 ? JsonNumber(allocation.budget) : "null");
  if (!allocation.at.empty()) json.AddRaw("at", ColumnsJson(allocation.at));
  json.Add("cells", static_cast<int64_t>(allocation.cells.size())).Add("claim", allocation.claim);
  json.AddRaw("minimum", NumberOrNull(first.minimum))
      .AddRaw("interval", IntervalJson(first.low, first.high))
      .Add("verdict", allocation.verdict)
      .Add("raw_minimum", allocation.raw_minimum);
  if (allocation.monotone.has_value()) {
    json.Add("falling_p", allocation.monotone->falling)
        .Add("rising_p", allocation.monotone->rising);
  }
  const bool seeds = allocation.noise.seed_freedom > 0.0;
  json.AddRaw("seed_sd", seeds ? JsonNumber(allocation.noise.seed_sd) : "null");
  json.AddRaw("forms", JsonArray(forms)).AddRaw("points", JsonArray(points));
  return json.Add("baseline", allocation.baseline).AddRaw("gains", JsonArray(gains));
}

JsonObject ScalingJson(const Scaling& scaling) {
  const ScalingFit& fit = scaling.fit;
  JsonObject line, power, floor, json;
  line.Add("intercept", fit.intercept)
      .Add("slope", fit.slope.value)
      .AddRaw("interval", IntervalJson(fit.slope.low, fit.slope.high))
      .Add("scatter", fit.log_scatter);
  power.Add("factor", fit.factor)
      .Add("exponent", fit.exponent.value)
      .AddRaw("interval", IntervalJson(fit.exponent.low, fit.exponent.high))
      .Add("scatter", fit.power_scatter);
  floor.Add("floor", fit.floor)
      .Add("factor", fit.floor_factor)
      .Add("exponent", fit.floor_exponent.value)
      .AddRaw("interval", IntervalJson(fit.floor_exponent.low, fit.floor_exponent.high))
      .Add("scatter", fit.floor_scatter);
  json.AddRaw("budget", scaling.budget > 0.0 ? JsonNumber(scaling.budget) : "null");
  if (!scaling.at.empty()) json.AddRaw("at", ColumnsJson(scaling.at));
  json.Add("column", scaling.column)
      .Add("cells", static_cast<int64_t>(scaling.data.size.size()))
      .AddRaw("log_linear", line.Text());
  json.AddRaw("power_law", power.Text())
      .AddRaw("power_law_with_floor", fit.has_floor ? floor.Text() : "null");
  return json.AddRaw("without_tables", NumberOrNull(scaling.without));
}

JsonObject ComparisonJson(const ColumnComparison& comparison) {
  std::vector<std::string> values;
  for (const Contrast& contrast : comparison.values) {
    JsonObject json;
    json.Add("value", contrast.value).Add("cells", contrast.cells).Add("mean", contrast.mean);
    json.Add("difference", contrast.difference).Add("seed_error", contrast.seed_error);
    json.Add("document_error", contrast.document_error);
    values.push_back(json.AddRaw("half_width", NumberOrNull(contrast.half)).Text());
  }
  JsonObject json;
  json.AddRaw("budget", comparison.budget > 0.0 ? JsonNumber(comparison.budget) : "null");
  json.Add("column", comparison.column).AddRaw("at", ColumnsJson(comparison.at));
  const bool seeds = comparison.noise.seed_freedom > 0.0;
  json.AddRaw("seed_sd", seeds ? JsonNumber(comparison.noise.seed_sd) : "null");
  return json.AddRaw("values", JsonArray(values));
}

}  // namespace

std::string ColumnValuesText(const ColumnValues& values) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : values) parts.push_back(name + " " + value);
  return Join(parts, ", ");
}

std::string FitText(const SweepFit& fit) {
  const std::optional<int64_t> of_all = DocumentsOfAll(fit);
  std::string out = fit.source + ": " + std::to_string(fit.cells) + " cells; intervals at " +
                    NumberText(std::round(1000.0 * fit.config.level) / 10.0) + " %, from " +
                    (of_all ? NoiseText(*of_all) : "what each says") + "; coordinate " +
                    fit.config.coordinate + "\n";
  const auto own = [&](int64_t documents) {
    return of_all ? "" : "intervals from " + NoiseText(documents) + "\n";
  };
  for (const std::string& line : fit.left_out) out += "left out: " + line + "\n";
  for (const Allocation& allocation : fit.allocations) {
    out += AllocationText(allocation) + own(allocation.documents);
  }
  for (const Scaling& scaling : fit.scalings) out += ScalingText(scaling) + own(0);
  for (const ColumnComparison& comparison : fit.comparisons)
    out += ComparisonText(comparison) + own(comparison.documents);
  return out;
}

std::string FitJson(const SweepFit& fit) {
  // One number says it for all, or each has its own.
  const std::optional<int64_t> of_all = DocumentsOfAll(fit);
  const auto text = [&](JsonObject json, int64_t documents) {
    return of_all ? json.Text() : json.Add("documents", documents).Text();
  };
  std::vector<std::string> allocations, scalings, comparisons, left_out;
  for (const Allocation& allocation : fit.allocations)
    allocations.push_back(text(AllocationJson(allocation), allocation.documents));
  for (const Scaling& scaling : fit.scalings) scalings.push_back(text(ScalingJson(scaling), 0));
  for (const ColumnComparison& comparison : fit.comparisons)
    comparisons.push_back(text(ComparisonJson(comparison), comparison.documents));
  for (const std::string& line : fit.left_out) left_out.push_back(JsonString(line));
  JsonObject json;
  json.Add("cells", fit.cells)
      .AddRaw("documents", of_all ? std::to_string(*of_all) : "null")
      .Add("level", fit.config.level);
  json.Add("coordinate", fit.config.coordinate).AddRaw("left_out", JsonArray(left_out));
  // What most callers want, without a search: the one curve's claim.
  if (fit.allocations.size() == 1) {
    const Allocation& only = fit.allocations.front();
    const CurveFit none, &first = only.forms.empty() ? none : only.forms.front();
    json.Add("claim", only.claim)
        .AddRaw("minimum", NumberOrNull(first.minimum))
        .AddRaw("interval", IntervalJson(first.low, first.high));
  }
  json.AddRaw("allocations", JsonArray(allocations));
  json.AddRaw("memory_scaling", JsonArray(scalings));
  return json.AddRaw("comparisons", JsonArray(comparisons)).Text();
}

}  // namespace mneme
