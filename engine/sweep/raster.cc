#include "engine/sweep/raster.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "engine/sweep/glyphs.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int kScale = 3;

void AppendBigEndian(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}

void AppendChunk(std::string& out, const std::string& type, const std::string& data) {
  AppendBigEndian(out, static_cast<uint32_t>(data.size()));
  const std::string body = type + data;
  out += body;
  const uLong sum =
      crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  AppendBigEndian(out, static_cast<uint32_t>(sum));
}

std::string Deflated(const std::string& bytes) {
  uLongf size = compressBound(static_cast<uLong>(bytes.size()));
  std::string out(size, '\0');
  CHECK_EQ(
      compress2(reinterpret_cast<Bytef*>(out.data()), &size,
                reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uLong>(bytes.size()), 9),
      Z_OK);
  out.resize(size);
  return out;
}

}  // namespace

Raster::Raster(int width, int height)
    : width_(width),
      height_(height),
      pixels_(static_cast<size_t>(3 * kScale * kScale * width * height), 255) {}

void Raster::Blend(int x, int y, const std::string& colour, double opacity) {
  if (x < 0 || y < 0 || x >= kScale * width_ || y >= kScale * height_) return;
  const long rgb = std::strtol(colour.c_str() + 1, nullptr, 16);
  const auto at = static_cast<size_t>(3 * (y * kScale * width_ + x));
  for (size_t c = 0; c < 3; ++c) {
    const auto ink = static_cast<double>((rgb >> (16 - 8 * c)) & 0xff);
    const double before = pixels_[at + c];
    pixels_[at + c] = static_cast<uint8_t>(std::lround(before + opacity * (ink - before)));
  }
}

void Raster::Line(double x0, double y0, double x1, double y1, double width,
                  const std::string& colour) {
  const double length = std::hypot(x1 - x0, y1 - y0);
  if (length <= 0.0) return;
  // A rectangle around the segment, half a width longer at both ends, so that joints close.
  const double ux = (x1 - x0) / length, uy = (y1 - y0) / length, h = 0.5 * width;
  Polygon({x0 - h * ux - h * uy, x1 + h * ux - h * uy, x1 + h * ux + h * uy, x0 - h * ux + h * uy},
          {y0 - h * uy + h * ux, y1 + h * uy + h * ux, y1 + h * uy - h * ux, y0 - h * uy - h * ux},
          colour, 1.0);
}

void Raster::Disc(double x, double y, double radius, const std::string& colour, double opacity) {
  std::vector<double> xs, ys;
  for (int i = 0; i < 48; ++i) {
    xs.push_back(x + radius * std::cos(i * M_PI / 24.0));
    ys.push_back(y + radius * std::sin(i * M_PI / 24.0));
  }
  Polygon(xs, ys, colour, opacity);
}

void Raster::Polygon(const std::vector<double>& xs, const std::vector<double>& ys,
                     const std::string& colour, double opacity) {
  const auto [low, high] = std::minmax_element(ys.begin(), ys.end());
  const int first = std::max(0, static_cast<int>(std::floor(*low * kScale)));
  const int last = std::min(kScale * height_ - 1, static_cast<int>(std::ceil(*high * kScale)));
  for (int row = first; row <= last; ++row) {
    const double y = (row + 0.5) / kScale;
    std::vector<double> cuts;
    for (size_t i = 0; i < xs.size(); ++i) {
      const size_t k = (i + 1) % xs.size();
      if ((ys[i] <= y) == (ys[k] <= y)) continue;
      cuts.push_back(xs[i] + (y - ys[i]) / (ys[k] - ys[i]) * (xs[k] - xs[i]));
    }
    std::sort(cuts.begin(), cuts.end());
    for (size_t i = 0; i + 1 < cuts.size(); i += 2) {
      const int begin = static_cast<int>(std::ceil(cuts[i] * kScale - 0.5));
      const int end = static_cast<int>(std::ceil(cuts[i + 1] * kScale - 0.5));
      for (int column = begin; column < end; ++column) Blend(column, row, colour, opacity);
    }
  }
}

void Raster::Text(double x, double y, double size, double anchor, bool upwards,
                  const std::string& text) {
  const double dot = size / 10.0, step = 6.0 * dot;
  double along = -anchor * (step * static_cast<double>(text.size()) - dot);
  for (const char c : text) {
    const std::array<uint8_t, 9> rows = Glyph(c);
    for (size_t row = 0; row < rows.size(); ++row) {
      for (int column = 0; column < 5; ++column) {
        if ((rows[row] >> (4 - column) & 1) == 0) continue;
        const double a = along + column * dot, b = (static_cast<double>(row) - 7.0) * dot;
        // Upwards: along the text is up, below it is right.
        const double px = upwards ? x + b : x + a, py = upwards ? y - a - dot : y + b;
        Polygon({px, px + dot, px + dot, px}, {py, py, py + dot, py + dot}, "#222222", 1.0);
      }
    }
    along += step;
  }
}

std::string Raster::Png() const {
  std::string rows;
  for (int y = 0; y < height_; ++y) {
    rows += '\0';  // no filter
    for (int x = 0; x < width_; ++x) {
      for (int c = 0; c < 3; ++c) {
        int sum = 0;
        for (int i = 0; i < kScale * kScale; ++i) {
          const int row = kScale * y + i / kScale, column = kScale * x + i % kScale;
          sum += pixels_[static_cast<size_t>(3 * (row * kScale * width_ + column) + c)];
        }
        rows += static_cast<char>((sum + kScale * kScale / 2) / (kScale * kScale));
      }
    }
  }
  std::string head;
  AppendBigEndian(head, static_cast<uint32_t>(width_));
  AppendBigEndian(head, static_cast<uint32_t>(height_));
  head += std::string("\x08\x02\x00\x00\x00", 5);  // 8 bits, RGB, no interlace
  std::string out = "\x89PNG\r\n\x1a\n";
  AppendChunk(out, "IHDR", head);
  AppendChunk(out, "IDAT", Deflated(rows));
  AppendChunk(out, "IEND", "");
  return out;
}

}  // namespace mneme
