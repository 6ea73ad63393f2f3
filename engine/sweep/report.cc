#include "engine/sweep/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "configs/text.h"
#include "engine/report/plot.h"

namespace mneme {
namespace {

constexpr char kStyle[] =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}"
    "table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
    ".verdict{background:#eef3f9;border-left:4px solid #1f5fa8;padding:.6rem .9rem}"
    ".warning{background:#fdf1e3;border-left:4px solid #c2571a;padding:.6rem .9rem}"
    "pre{background:#f6f6f6;padding:.8rem;overflow-x:auto;font-size:13px}"
    ".wide{overflow-x:auto}";

constexpr std::array<const char*, 5> kColours = {"#1f5fa8", "#c2571a", "#2e8b57", "#8a3ea0",
                                                 "#a08000"};

std::string Fixed(double value, int digits) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string Ends(const std::optional<double>& low, const std::optional<double>& high, int digits) {
  return (low ? Fixed(*low, digits) : "beyond") + " to " + (high ? Fixed(*high, digits) : "beyond");
}

std::string PlusMinus(double value, const std::optional<double>& half, int digits) {
  return Fixed(value, digits) + (half.has_value() ? " &plusmn; " + Fixed(*half, digits) : "");
}

using Row = std::vector<std::string>;

// Cells of `rows` are HTML already.
std::string Table(const Row& head, const std::vector<Row>& rows) {
  std::string out = "<div class=\"wide\"><table>\n<tr>";
  for (const std::string& name : head) out += "<th>" + EscapedText(name) + "</th>";
  out += "</tr>\n";
  for (const Row& row : rows) {
    out += "<tr>";
    for (const std::string& cell : row) out += "<td>" + cell + "</td>";
    out += "</tr>\n";
  }
  return out + "</table></div>\n";
}

std::string PlaceText(const std::string& what, double budget, const ColumnValues& at) {
  std::string out = what;
  if (budget > 0.0)
    out = (what.empty() ? "Budget " : what + ", budget ") + NumberText(budget) + " FLOPs";
  if (!at.empty()) out += (out.empty() ? "" : ", ") + ColumnValuesText(at);
  return out.empty() ? "Allocation" : out;
}

std::string FormsTable(const Allocation& allocation) {
  std::vector<Row> rows;
  for (const CurveFit& form : allocation.forms) {
    rows.push_back({EscapedText(form.name), EscapedText(form.formula),
                    form.minimum ? Fixed(*form.minimum, 3) : "at an end",
                    form.minimum ? Ends(form.low, form.high, 3) : "",
                    form.minimum ? Fixed(form.loss, 4) : "", Fixed(form.scatter, 4),
                    form.misfit_p < 1.0 ? Fixed(form.misfit_p, 3) : ""});
  }
  rows.push_back({"none: least mean", "", NumberText(allocation.raw_minimum), "", "", "", ""});
  return Table(
      {"curve", "formula", "minimum at rho", "interval", "loss there", "scatter", "p of misfit"},
      rows);
}

std::string PointsTable(const Allocation& allocation) {
  std::vector<Row> rows;
  for (const CurvePoint& point : allocation.points) {
    Row row = {NumberText(point.rho),
               std::to_string(point.cells),
               Fixed(point.mean, 4),
               point.cells > 1 ? Fixed(point.sd, 4) : "",
               "",
               "",
               ""};
    for (const Gain& gain : allocation.gains) {
      if (gain.rho != point.rho) continue;
      row[4] = PlusMinus(gain.nats, gain.half, 4);
      row[5] = gain.seed_error > 0.0 ? Fixed(gain.seed_error, 4) : "";
      row[6] = gain.document_error > 0.0 ? Fixed(gain.document_error, 4) : "";
    }
    rows.push_back(row);
  }
  return Table(
      {"rho", "cells", "mean loss", "sd", "gain over rho " + NumberText(allocation.baseline),
       "error of seeds", "error of documents"},
      rows);
}

// Every scalar that the cells share, unless the notes choose.
std::string CellsTable(const std::vector<CellResult>& cells, const Row& columns) {
  Row head = columns;
  if (head.empty()) {
    for (const auto& [name, value] : cells.front().columns) head.push_back(name);
  }
  std::vector<Row> rows;
  for (const CellResult& cell : cells) {
    Row row;
    for (const std::string& name : head) {
      const auto found = cell.columns.find(name);
      row.push_back(found == cell.columns.end() ? "" : EscapedText(found->second));
    }
    rows.push_back(std::move(row));
  }
  return Table(head, rows);
}

std::string AllocationHtml(const Allocation& allocation, double level, const Row& columns) {
  std::string out = "<h2>" + EscapedText(PlaceText("", allocation.budget, allocation.at)) +
                    "</h2>\n<p class=\"verdict\">" + EscapedText(allocation.verdict) + ".</p>\n";
  out += CurveFigure(allocation, level).Svg() + FormsTable(allocation);
  if (allocation.noise.seed_freedom > 0.0) {
    out +=
        "<p>Between cells that differ in their seed alone the loss has a standard deviation of " +
        Fixed(allocation.noise.seed_sd, 4) + ", once each seed's own level is taken out.</p>\n";
  }
  out += PointsTable(allocation) + ResidualFigure(allocation).Svg();
  return out + "<h3>Cells</h3>\n" + CellsTable(allocation.cells, columns);
}

std::string ScalingHtml(const Scaling& scaling) {
  const ScalingFit& fit = scaling.fit;
  std::vector<Row> rows = {
      {"log-linear", "slope a tenfold", Fixed(fit.slope.value, 5),
       Ends(fit.slope.low, fit.slope.high, 5), Fixed(fit.log_scatter, 4)},
      {"power law", "exponent", Fixed(fit.exponent.value, 5),
       Ends(fit.exponent.low, fit.exponent.high, 5), Fixed(fit.power_scatter, 4)}};
  if (fit.has_floor) {
    rows.push_back(
        {"power law above " + Fixed(fit.floor, 4), "exponent", Fixed(fit.floor_exponent.value, 3),
         Ends(fit.floor_exponent.low, fit.floor_exponent.high, 3), Fixed(fit.floor_scatter, 4)});
  }
  return "<h2>" + EscapedText(PlaceText("Loss over table size", scaling.budget, scaling.at)) +
         "</h2>\n" + ScalingFigure(scaling).Svg() +
         Table({"law", "what", "value", "interval", "scatter"}, rows);
}

std::string ComparisonHtml(const ColumnComparison& comparison) {
  const Contrast& reference = comparison.values.front();
  std::vector<Row> rows;
  for (const Contrast& contrast : comparison.values) {
    Row row = {EscapedText(contrast.value),
               std::to_string(contrast.cells),
               Fixed(contrast.mean, 4),
               "",
               "",
               ""};
    if (&contrast != &reference) {
      row[3] = PlusMinus(contrast.difference, contrast.half, 4);
      row[4] = contrast.seed_error > 0.0 ? Fixed(contrast.seed_error, 4) : "";
      row[5] = contrast.document_error > 0.0 ? Fixed(contrast.document_error, 4) : "";
    }
    rows.push_back(std::move(row));
  }
  return "<h2>" + EscapedText(PlaceText(comparison.column, comparison.budget, comparison.at)) +
         "</h2>\n" +
         Table({comparison.column, "cells", "mean loss", "against " + reference.value,
                "error of seeds", "error of documents"},
               rows);
}

// What an interval is from.
std::string NoiseText(int64_t documents) {
  if (documents == 0) return "the noise of seeds alone";
  return "the noise of seeds and " + std::to_string(documents) +
         " held-out documents drawn again, the same for all cells";
}

// The seeds' colours; seeds beyond the fifth begin again.
std::string ColourOf(const std::vector<CellResult>& cells, int64_t seed) {
  std::vector<int64_t> seeds;
  for (const CellResult& cell : cells) seeds.push_back(cell.seed);
  std::sort(seeds.begin(), seeds.end());
  seeds.erase(std::unique(seeds.begin(), seeds.end()), seeds.end());
  const auto at = std::lower_bound(seeds.begin(), seeds.end(), seed) - seeds.begin();
  return kColours[static_cast<size_t>(at) % kColours.size()];
}

}  // namespace

Figure CurveFigure(const Allocation& allocation, double level) {
  Figure figure(760, 460);
  double y_low = INFINITY, y_high = -INFINITY;
  for (const CellResult& cell : allocation.cells) {
    y_low = std::min(y_low, cell.validation_loss);
    y_high = std::max(y_high, cell.validation_loss);
  }
  const double low = allocation.points.front().rho, high = allocation.points.back().rho;
  const CurveFit* fit = allocation.forms.empty() ? nullptr : &allocation.forms.front();
  if (fit != nullptr) {
    y_low = std::min(y_low, *std::min_element(fit->line.begin(), fit->line.end()));
    y_high = std::max(y_high, *std::max_element(fit->line.begin(), fit->line.end()));
  }
  Axes axes(figure, low, high, y_low, y_high);
  const auto inside = [&](double y) { return std::clamp(y, axes.y_low(), axes.y_high()); };
  if (fit != nullptr && fit->minimum.has_value()) {
    const double left = std::max(low, fit->low.value_or(low));
    const double right = std::min(high, fit->high.value_or(high));
    figure.Area({axes.At(left, axes.y_low()), axes.At(right, axes.y_low()),
                 axes.At(right, axes.y_high()), axes.At(left, axes.y_high())},
                "#2e8b57", 0.13);
  }
  axes.Draw(PlaceText("", allocation.budget, allocation.at) +
                (allocation.claim ? ": minimum at rho " + Fixed(*fit->minimum, 3)
                                  : ": no claim of a minimum"),
            "rho: share of the sparse parameters given to experts",
            "validation loss (nats a token)");
  if (fit != nullptr) {
    const std::vector<double> places = CurvePlaces(low, high);
    std::vector<Spot> line, band, under;
    for (size_t i = 0; i < places.size(); ++i) {
      line.push_back(axes.At(places[i], inside(fit->line[i])));
      band.push_back(axes.At(places[i], inside(fit->line[i] + fit->band[i])));
      under.push_back(axes.At(places[i], inside(fit->line[i] - fit->band[i])));
    }
    band.insert(band.end(), under.rbegin(), under.rend());
    figure.Area(band, "#1f5fa8", 0.15);
    figure.Line(line, "#1f5fa8", 2.0);
    if (fit->minimum.has_value()) {
      figure.Line({axes.At(*fit->minimum, axes.y_low()), axes.At(*fit->minimum, axes.y_high())},
                  "#2e8b57", 1.4, /*dashed=*/true);
    }
  }
  for (const CellResult& cell : allocation.cells)
    figure.Dot(axes.At(cell.rho, cell.validation_loss), 3.6, ColourOf(allocation.cells, cell.seed));
  for (const CurvePoint& point : allocation.points)
    figure.Dot(axes.At(point.rho, point.mean), 5.0, "#222222", /*filled=*/false);
  figure.Text({380.0, 452.0}, "middle", 12.0,
              "dots: cells, a colour a seed; rings: means; line, band: quadratic, " +
                  NumberText(std::round(1000.0 * level) / 10.0) + " %; green: minimum, interval");
  return figure;
}

Figure ResidualFigure(const Allocation& allocation) {
  Figure figure(760, 250);
  double most = 0.0;
  if (!allocation.forms.empty()) {
    for (const double residual : allocation.forms.front().residuals)
      most = std::max(most, std::fabs(residual));
  }
  const double low = allocation.points.front().rho, high = allocation.points.back().rho;
  Axes axes(figure, low, high, -most, most);
  axes.Draw("Residuals of the quadratic, seeds' levels taken out", "rho", "nats");
  figure.Line({axes.At(low, 0.0), axes.At(high, 0.0)}, "#333333", 1.0, /*dashed=*/true);
  for (size_t i = 0; !allocation.forms.empty() && i < allocation.cells.size(); ++i) {
    const CellResult& cell = allocation.cells[i];
    figure.Dot(axes.At(cell.rho, allocation.forms.front().residuals[i]), 3.6,
               ColourOf(allocation.cells, cell.seed));
  }
  return figure;
}

Figure ScalingFigure(const Scaling& scaling) {
  Figure figure(760, 380);
  const auto [low, high] = std::minmax_element(scaling.data.size.begin(), scaling.data.size.end());
  auto [best, worst] = std::minmax_element(scaling.data.loss.begin(), scaling.data.loss.end());
  const double top = std::max(*worst, scaling.without.value_or(*worst));
  Axes axes(figure, *low, *high, *best, top, /*logarithmic_x=*/true);
  axes.Draw("Loss over table size", scaling.column, "validation loss (nats a token)");
  if (scaling.without.has_value()) {
    figure.Line({axes.At(*low, *scaling.without), axes.At(*high, *scaling.without)}, "#c2571a", 1.4,
                /*dashed=*/true);
    figure.Text({740.0, axes.At(*low, *scaling.without).y - 6.0}, "end", 12.0, "without tables");
  }
  const auto line = [&](double size) {
    return scaling.fit.intercept + scaling.fit.slope.value * std::log10(size);
  };
  figure.Line({axes.At(*low, line(*low)), axes.At(*high, line(*high))}, "#1f5fa8", 2.0);
  for (size_t i = 0; i < scaling.data.size.size(); ++i) {
    figure.Dot(axes.At(scaling.data.size[i], scaling.data.loss[i]), 4.0,
               kColours[static_cast<size_t>(scaling.data.seed[i]) % kColours.size()]);
  }
  return figure;
}

std::string ReportHtml(const SweepFit& fit, const ReportNotes& notes) {
  const std::string title = EscapedText(notes.title);
  std::string out = "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>" +
                    title + "</title>\n<style>" + kStyle + "</style></head>\n<body>\n<h1>" + title +
                    "</h1>\n";
  for (const std::string& warning : notes.warnings)
    out += "<p class=\"warning\">" + EscapedText(warning) + "</p>\n";
  const std::string level = NumberText(std::round(1000.0 * fit.config.level) / 10.0);
  const std::optional<int64_t> of_all = DocumentsOfAll(fit);
  const auto own = [&](int64_t documents) {
    return of_all ? "" : "<p>Intervals from " + NoiseText(documents) + ".</p>\n";
  };
  out += "<p>" + std::to_string(fit.cells) + " cells. Intervals at " + level + " %, from " +
         (of_all ? NoiseText(*of_all) : "what is said with each") +
         ". Coordinate of quadratic and cubic: " + EscapedText(fit.config.coordinate) + "." +
         (notes.held_out.empty() ? "" : " Held-out set: " + EscapedText(notes.held_out) + ".") +
         "</p>\n";
  for (const std::string& line : fit.left_out)
    out += "<p>Left out: " + EscapedText(line) + "</p>\n";
  for (const Allocation& allocation : fit.allocations) {
    out += AllocationHtml(allocation, fit.config.level, notes.columns);
    out += own(allocation.documents);
  }
  for (const Scaling& scaling : fit.scalings) out += ScalingHtml(scaling) + own(0);
  for (const ColumnComparison& comparison : fit.comparisons)
    out += ComparisonHtml(comparison) + own(comparison.documents);
  if (!notes.config.empty())
    out += "<h2>The sweep</h2>\n<pre>" + EscapedText(notes.config) + "</pre>\n";
  return out + "</body>\n</html>\n";
}

}  // namespace mneme
