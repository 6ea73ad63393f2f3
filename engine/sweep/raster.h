// Pixels of a figure, and the PNG of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

// An image of 8-bit RGB that is drawn three times as large and averaged down, so that edges are
// smooth. Coordinates are pixels of the result; what lies outside is left out.
class Raster {
 public:
  // White.
  Raster(int width, int height);

  // Colours are "#rrggbb", opacity is 0 … 1. A line is a rectangle `width` pixels wide that reaches
  // half of that beyond both ends, so that joints close.
  void Line(double x0, double y0, double x1, double y1, double width, const std::string& colour);
  void Disc(double x, double y, double radius, const std::string& colour, double opacity);
  // Even-odd.
  void Polygon(const std::vector<double>& xs, const std::vector<double>& ys,
               const std::string& colour, double opacity);
  // anchor 0, 0.5 or 1: the share of the text that stands left of x (below y where upwards); the
  // base line is at y.
  void Text(double x, double y, double size, double anchor, bool upwards, const std::string& text);

  // A file's bytes: 8-bit RGB, width x height.
  std::string Png() const;

 private:
  void Blend(int x, int y, const std::string& colour, double opacity);
  int width_, height_;
  std::vector<uint8_t> pixels_;  // [3 height][3 width][3]
};

}  // namespace mneme
