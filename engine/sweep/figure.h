// A drawing as a list of shapes, and the same list as SVG and as PNG. Pure data.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "engine/sweep/raster.h"

namespace mneme {

// Pixels from the upper left corner.
struct Spot {
  double x = 0.0;
  double y = 0.0;
};

// Colours are "#rrggbb".
class Figure {
 public:
  // In pixels; empty, on white.
  Figure(int width, int height) : width_(width), height_(height) {}

  // Shapes lie over those that were drawn before. A line through all points, `width` pixels wide; a
  // filled polygon (opacity 0 … 1); a disc, or a ring where not filled.
  void Line(std::vector<Spot> points, const std::string& colour, double width, bool dashed = false);
  void Area(std::vector<Spot> points, const std::string& colour, double opacity);
  void Dot(Spot at, double radius, const std::string& colour, bool filled = true);
  // anchor: "start", "middle" or "end" of the text stands at the spot; upwards: turned by 90
  // degrees.
  void Text(Spot at, const std::string& anchor, double size, const std::string& text,
            bool upwards = false);

  int width() const { return width_; }
  int height() const { return height_; }
  // One element, <svg>, which may stand in HTML or be a file.
  std::string Svg() const;
  // The same shapes in pixels: a file's bytes.
  std::string Png() const;

 private:
  struct LineShape {
    std::vector<Spot> points;
    std::string colour;
    double width;
    bool dashed;
  };
  struct AreaShape {
    std::vector<Spot> points;
    std::string colour;
    double opacity;
  };
  struct DotShape {
    Spot at;
    double radius;
    std::string colour;
    bool filled;
  };
  struct TextShape {
    Spot at;
    std::string anchor;
    double size;
    std::string text;
    bool upwards;
  };
  using Shape = std::variant<LineShape, AreaShape, DotShape, TextShape>;

  static std::string ShapeSvg(const LineShape& line);
  static std::string ShapeSvg(const AreaShape& area);
  static std::string ShapeSvg(const DotShape& dot);
  static std::string ShapeSvg(const TextShape& text);
  static void DrawShape(const LineShape& line, Raster& raster);
  static void DrawShape(const AreaShape& area, Raster& raster);
  static void DrawShape(const DotShape& dot, Raster& raster);
  static void DrawShape(const TextShape& text, Raster& raster);

  int width_;
  int height_;
  std::vector<Shape> shapes_;
};

// Axes inside a figure: values to spots, round ticks, labels.
class Axes {
 public:
  // Borrows the figure; leaves margins for the labels, and 6 % of room above and below [y_low,
  // y_high]. A logarithmic x axis takes values and ranges as they are, above 0.
  Axes(Figure& figure, double x_low, double x_high, double y_low, double y_high,
       bool logarithmic_x = false);

  // Where values stand, outside of the axes too.
  Spot At(double x, double y) const;
  // Draws lines, ticks and words into the figure.
  void Draw(const std::string& title, const std::string& x_label, const std::string& y_label);
  // With the room.
  double y_low() const { return y_low_; }
  double y_high() const { return y_high_; }

 private:
  double Place(double x) const;  // 0 at the left end, 1 at the right
  Figure& figure_;
  double x_low_, x_high_, y_low_, y_high_;
  bool logarithmic_;
};

}  // namespace mneme
