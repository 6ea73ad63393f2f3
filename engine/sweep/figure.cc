#include "engine/sweep/figure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "configs/text.h"
#include "engine/report/plot.h"

namespace mneme {
namespace {

constexpr double kLeft = 78.0, kRight = 22.0, kTop = 42.0, kBottom = 74.0;

// A hundredth of a pixel is enough.
std::string Pixels(double value) { return NumberText(std::round(value * 100.0) / 100.0); }

std::string Short(double value) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.5g", value);
  return text.data();
}

std::string PointsText(const std::vector<Spot>& points) {
  std::string out;
  for (const Spot& point : points)
    out += (out.empty() ? "" : " ") + Pixels(point.x) + "," + Pixels(point.y);
  return out;
}

}  // namespace

void Figure::Line(std::vector<Spot> points, const std::string& colour, double width, bool dashed) {
  shapes_.emplace_back(LineShape{std::move(points), colour, width, dashed});
}
void Figure::Area(std::vector<Spot> points, const std::string& colour, double opacity) {
  shapes_.emplace_back(AreaShape{std::move(points), colour, opacity});
}
void Figure::Dot(Spot at, double radius, const std::string& colour, bool filled) {
  shapes_.emplace_back(DotShape{at, radius, colour, filled});
}
void Figure::Text(Spot at, const std::string& anchor, double size, const std::string& text,
                  bool upwards) {
  shapes_.emplace_back(TextShape{at, anchor, size, text, upwards});
}

std::string Figure::ShapeSvg(const LineShape& line) {
  return "<polyline fill=\"none\" stroke=\"" + line.colour + "\" stroke-width=\"" +
         Pixels(line.width) + "\"" + (line.dashed ? " stroke-dasharray=\"5 4\"" : "") +
         " points=\"" + PointsText(line.points) + "\"/>\n";
}

std::string Figure::ShapeSvg(const AreaShape& area) {
  return "<polygon fill=\"" + area.colour + "\" fill-opacity=\"" + Pixels(area.opacity) +
         "\" points=\"" + PointsText(area.points) + "\"/>\n";
}

std::string Figure::ShapeSvg(const DotShape& dot) {
  const std::string paint =
      dot.filled ? "fill=\"" + dot.colour + "\" fill-opacity=\"0.75\""
                 : "fill=\"#ffffff\" stroke-width=\"1.6\" stroke=\"" + dot.colour + "\"";
  return "<circle cx=\"" + Pixels(dot.at.x) + "\" cy=\"" + Pixels(dot.at.y) + "\" r=\"" +
         Pixels(dot.radius) + "\" " + paint + "/>\n";
}

std::string Figure::ShapeSvg(const TextShape& text) {
  const std::string x = Pixels(text.at.x), y = Pixels(text.at.y);
  return "<text x=\"" + x + "\" y=\"" + y + "\" font-size=\"" + Pixels(text.size) +
         "\" text-anchor=\"" + text.anchor + "\"" +
         (text.upwards ? " transform=\"rotate(-90 " + x + " " + y + ")\"" : "") + ">" +
         EscapedText(text.text) + "</text>\n";
}

std::string Figure::Svg() const {
  const std::string w = std::to_string(width_), h = std::to_string(height_);
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h +
                    "\" viewBox=\"0 0 " + w + " " + h + "\" font-family=\"sans-serif\">\n" +
                    "<rect width=\"" + w + "\" height=\"" + h + "\" fill=\"#ffffff\"/>\n";
  for (const Shape& shape : shapes_)
    out += std::visit([](const auto& one) { return ShapeSvg(one); }, shape);
  return out + "</svg>\n";
}

void Figure::DrawShape(const LineShape& line, Raster& raster) {
  double walked = 0.0;
  for (size_t i = 0; i + 1 < line.points.size(); ++i) {
    const Spot a = line.points[i], b = line.points[i + 1];
    if (!line.dashed) {
      raster.Line(a.x, a.y, b.x, b.y, line.width, line.colour);
      continue;
    }
    // Five pixels drawn, four left out, over all segments.
    const double length = std::hypot(b.x - a.x, b.y - a.y);
    for (double at = 0.0; at < length; at += 1.0, walked += 1.0) {
      if (std::fmod(walked, 9.0) >= 5.0) continue;
      const double p = at / length, q = std::min(1.0, (at + 1.0) / length);
      raster.Line(a.x + p * (b.x - a.x), a.y + p * (b.y - a.y), a.x + q * (b.x - a.x),
                  a.y + q * (b.y - a.y), line.width, line.colour);
    }
  }
}

void Figure::DrawShape(const AreaShape& area, Raster& raster) {
  std::vector<double> xs, ys;
  for (const Spot& point : area.points) {
    xs.push_back(point.x);
    ys.push_back(point.y);
  }
  raster.Polygon(xs, ys, area.colour, area.opacity);
}

void Figure::DrawShape(const DotShape& dot, Raster& raster) {
  if (dot.filled) {
    raster.Disc(dot.at.x, dot.at.y, dot.radius, dot.colour, 0.75);
    return;
  }
  raster.Disc(dot.at.x, dot.at.y, dot.radius + 0.8, dot.colour, 1.0);
  raster.Disc(dot.at.x, dot.at.y, dot.radius - 0.8, "#ffffff", 1.0);
}

void Figure::DrawShape(const TextShape& text, Raster& raster) {
  const double anchor = text.anchor == "start" ? 0.0 : text.anchor == "end" ? 1.0 : 0.5;
  raster.Text(text.at.x, text.at.y, text.size, anchor, text.upwards, text.text);
}

std::string Figure::Png() const {
  Raster raster(width_, height_);
  for (const Shape& shape : shapes_)
    std::visit([&](const auto& one) { DrawShape(one, raster); }, shape);
  return raster.Png();
}

Axes::Axes(Figure& figure, double x_low, double x_high, double y_low, double y_high,
           bool logarithmic_x)
    : figure_(figure), x_low_(x_low), x_high_(x_high), logarithmic_(logarithmic_x) {
  // Room above and below, also where all values are one up to rounding.
  const double rounding = 1e-12 * std::max(std::fabs(y_low), std::fabs(y_high));
  const bool one = y_high - y_low <= rounding;
  const double room = one ? std::max(1e-3, 1e3 * rounding) : 0.06 * (y_high - y_low);
  y_low_ = y_low - room;
  y_high_ = y_high + room;
}

double Axes::Place(double x) const {
  const auto value = [&](double v) { return logarithmic_ ? std::log10(v) : v; };
  const double span = value(x_high_) - value(x_low_);
  return span > 0.0 ? (value(x) - value(x_low_)) / span : 0.5;
}

Spot Axes::At(double x, double y) const {
  const double inner_width = figure_.width() - kLeft - kRight - 20.0;
  const double inner_height = figure_.height() - kTop - kBottom;
  return {kLeft + 10.0 + inner_width * Place(x),
          kTop + inner_height * (y_high_ - y) / (y_high_ - y_low_)};
}

void Axes::Draw(const std::string& title, const std::string& x_label, const std::string& y_label) {
  const double right = figure_.width() - kRight, bottom = figure_.height() - kBottom;
  for (const double tick : RoundTicks(y_low_, y_high_)) {
    const double y = At(x_low_, tick).y;
    figure_.Line({{kLeft, y}, {right, y}}, "#e3e3e3", 1.0);
    figure_.Text({kLeft - 7.0, y + 4.0}, "end", 12.0, Short(tick));
  }
  const double low = logarithmic_ ? std::log10(x_low_) : x_low_;
  const double high = logarithmic_ ? std::log10(x_high_) : x_high_;
  for (const double tick : RoundTicks(low, high)) {
    const double x = At(logarithmic_ ? std::pow(10.0, tick) : tick, y_low_).x;
    figure_.Line({{x, bottom}, {x, bottom + 5.0}}, "#333333", 1.0);
    figure_.Text({x, bottom + 19.0}, "middle", 12.0,
                 logarithmic_ ? "1e" + Short(tick) : Short(tick));
  }
  figure_.Line({{kLeft, kTop}, {kLeft, bottom}, {right, bottom}}, "#333333", 1.2);
  figure_.Text({0.5 * (kLeft + right), 22.0}, "middle", 15.0, title);
  figure_.Text({0.5 * (kLeft + right), bottom + 40.0}, "middle", 13.0, x_label);
  figure_.Text({18.0, 0.5 * (kTop + bottom)}, "middle", 13.0, y_label, /*upwards=*/true);
}

}  // namespace mneme
