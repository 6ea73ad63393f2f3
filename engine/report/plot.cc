#include "engine/report/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace mneme {
namespace {

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  // 0 at low, 1 at high. By halves, since the whole of a range may be more than a double holds.
  double Place(double value) const {
    if (!(high > low)) return 0.5;
    const double place = (0.5 * value - 0.5 * low) / (0.5 * high - 0.5 * low);
    return place > 0.0 ? std::min(place, 1.0) : 0.0;
  }
};

struct Ranges {
  Range x, y;
};

Ranges RangesOf(const std::vector<Curve>& curves) {
  Ranges ranges;
  for (const Curve& curve : curves) {
    for (const auto& [x, y] : curve.points) {
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      ranges.x.Take(x);
      ranges.y.Take(y);
    }
  }
  return ranges;
}

std::string Number(double value) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.4g", value);
  return text.data();
}

constexpr std::array<char, 6> kMarks = {'*', 'o', '+', 'x', '#', '@'};
constexpr std::array<const char*, 6> kColours = {"#1f5fa8", "#c2571a", "#2e8b57",
                                                 "#8a3ea0", "#a08000", "#555555"};

// Mean of a curve's points column by column, as rows of the grid.
void DrawCurve(const Curve& curve, char mark, const Ranges& ranges, int width, int height,
               std::vector<std::string>& grid) {
  std::vector<double> sum(static_cast<size_t>(width)), count(static_cast<size_t>(width));
  for (const auto& [x, y] : curve.points) {
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    const auto column = static_cast<size_t>(std::lround(ranges.x.Place(x) * (width - 1)));
    sum[column] += y;
    count[column] += 1.0;
  }
  for (size_t column = 0; column < sum.size(); ++column) {
    if (count[column] == 0.0) continue;
    const double place = ranges.y.Place(sum[column] / count[column]);
    const auto row = static_cast<size_t>(std::lround((1.0 - place) * (height - 1)));
    grid[row][column] = mark;
  }
}

// The plot's frame inside an SVG of 720 x 420.
struct Frame {
  Ranges ranges;
  double X(double x) const { return 70.0 + 620.0 * ranges.x.Place(x); }
  double Y(double y) const { return 360.0 - 310.0 * ranges.y.Place(y); }
};

std::string TextAt(double x, double y, const std::string& anchor, const std::string& text) {
  return "<text x=\"" + Number(x) + "\" y=\"" + Number(y) + "\" text-anchor=\"" + anchor + "\">" +
         EscapedText(text) + "</text>\n";
}

std::string AxesSvg(const Frame& frame) {
  std::string out;
  for (const double tick : RoundTicks(frame.ranges.y.low, frame.ranges.y.high)) {
    const std::string y = Number(frame.Y(tick));
    out += "<line x1=\"70\" x2=\"690\" y1=\"" + y + "\" y2=\"" + y + "\" stroke=\"#ddd\"/>\n";
    out += TextAt(62.0, frame.Y(tick) + 4.0, "end", Number(tick));
  }
  for (const double tick : RoundTicks(frame.ranges.x.low, frame.ranges.x.high)) {
    out += TextAt(frame.X(tick), 378.0, "middle", Number(tick));
  }
  return out + "<path d=\"M70 50V360H690\" fill=\"none\" stroke=\"#333\"/>\n";
}

std::string CurveSvg(const Curve& curve, const char* colour, const Frame& frame) {
  std::string points;
  for (const auto& [x, y] : curve.points) {
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    points += Number(frame.X(x)) + "," + Number(frame.Y(y)) + " ";
  }
  return "<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"" + std::string(colour) +
         "\" points=\"" + points + "\"/>\n";
}

}  // namespace

std::vector<double> RoundTicks(double low, double high) {
  const double span = high > low ? high - low : 1.0;
  double step = std::pow(10.0, std::floor(std::log10(span / 5.0)));
  for (const double factor : {2.0, 2.5, 2.0}) {
    if (span / step > 6.0) step *= factor;
  }
  std::vector<double> ticks;
  for (double tick = std::ceil(low / step) * step; tick <= high + 1e-9 * span; tick += step) {
    ticks.push_back(std::fabs(tick) < 1e-9 * span ? 0.0 : tick);
    if (!(tick + step > tick)) break;  // values that differ in their last digits alone
  }
  return ticks;
}

std::string EscapedText(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string PlotText(const std::vector<Curve>& curves, int width, int height) {
  const Ranges ranges = RangesOf(curves);
  if (ranges.x.empty() || width < 2 || height < 2) return "";
  std::vector<std::string> grid(static_cast<size_t>(height),
                                std::string(static_cast<size_t>(width), ' '));
  std::string legend;
  for (size_t i = 0; i < curves.size(); ++i) {
    const char mark = kMarks[i % kMarks.size()];
    DrawCurve(curves[i], mark, ranges, width, height, grid);
    legend += std::string(i == 0 ? "" : "   ") + mark + " " + curves[i].name;
  }
  std::string out;
  for (size_t row = 0; row < grid.size(); ++row) {
    std::string label;
    if (row == 0) label = Number(ranges.y.high);
    if (row + 1 == grid.size()) label = Number(ranges.y.low);
    out += std::string(label.size() < 8 ? 8 - label.size() : 0, ' ') + label + " |";
    out += grid[row].substr(0, grid[row].find_last_not_of(' ') + 1) + "\n";
  }
  out += std::string(9, ' ') + "+" + std::string(static_cast<size_t>(width), '-') + "\n";
  const std::string low = Number(ranges.x.low), high = Number(ranges.x.high);
  const int gap = std::max(1, width - static_cast<int>(low.size() + high.size()));
  out += std::string(10, ' ') + low + std::string(static_cast<size_t>(gap), ' ') + high + "\n";
  return out + std::string(10, ' ') + legend + "\n";
}

std::string PlotSvg(const std::vector<Curve>& curves, const std::string& title,
                    const std::string& x_label, const std::string& y_label) {
  Frame frame{RangesOf(curves)};
  if (frame.ranges.x.empty()) frame.ranges = {{0.0, 1.0}, {0.0, 1.0}};
  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"420\" viewBox=\"0 0 720 "
      "420\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"720\" height=\"420\" "
      "fill=\"#fff\"/>\n";
  out += "<g font-size=\"15\">" + TextAt(380.0, 28.0, "middle", title) + "</g>\n";
  out += AxesSvg(frame) + TextAt(380.0, 402.0, "middle", x_label);
  out += "<g transform=\"rotate(-90 18 205)\">" + TextAt(18.0, 205.0, "middle", y_label) + "</g>\n";
  for (size_t i = 0; i < curves.size(); ++i) {
    const char* colour = kColours[i % kColours.size()];
    out += CurveSvg(curves[i], colour, frame);
    const double y = 64.0 + 18.0 * static_cast<double>(i);
    out += "<rect x=\"560\" y=\"" + Number(y - 9.0) + "\" width=\"14\" height=\"3\" fill=\"" +
           colour + "\"/>\n";
    out += TextAt(580.0, y - 3.0, "start", curves[i].name);
  }
  return out + "</svg>\n";
}

}  // namespace mneme
