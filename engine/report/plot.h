// Curves for people: in a terminal and as SVG. Pure text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace mneme {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>>
      points;  // rising in x; values that are not finite are left out
};

// A plot of `width` x `height` characters and its axes; a mark a curve, named below. Every column
// shows the mean of its points. Empty where there is nothing to show.
std::string PlotText(const std::vector<Curve>& curves, int width, int height);
// A whole SVG document: axes with round numbers, a line a curve, a legend.
std::string PlotSvg(const std::vector<Curve>& curves, const std::string& title,
                    const std::string& x_label, const std::string& y_label);

// About five round numbers inside [low, high]; and text as it may stand in SVG and HTML.
std::vector<double> RoundTicks(double low, double high);
std::string EscapedText(const std::string& text);

}  // namespace mneme
