#include "engine/sweep/raster.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "engine/sweep/figure.h"

namespace mneme {
namespace {

uint32_t BigEndian(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}

struct Decoded {
  uint32_t width = 0, height = 0;
  std::string rows;  // a filter byte, then RGB
  std::string Pixel(size_t x, size_t y) const {
    return rows.substr(y * (3 * width + 1) + 1 + 3 * x, 3);
  }
};

// Every chunk's length and checksum must hold.
Decoded Decode(const std::string& png) {
  Decoded image;
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  std::string deflated;
  for (size_t at = 8; at < png.size();) {
    const uint32_t size = BigEndian(png, at);
    const std::string type = png.substr(at + 4, 4), data = png.substr(at + 8, size);
    const std::string body = type + data;
    EXPECT_EQ(crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())),
              BigEndian(png, at + 8 + size));
    if (type == "IHDR") image.width = BigEndian(data, 0), image.height = BigEndian(data, 4);
    if (type == "IDAT") deflated += data;
    at += 12 + size;
  }
  uLongf size = (3 * image.width + 1) * image.height;
  image.rows.resize(size);
  EXPECT_EQ(uncompress(reinterpret_cast<Bytef*>(image.rows.data()), &size,
                       reinterpret_cast<const Bytef*>(deflated.data()),
                       static_cast<uLong>(deflated.size())),
            Z_OK);
  EXPECT_EQ(size, image.rows.size());
  return image;
}

TEST(Raster, DrawsWhatItIsTold) {
  Raster raster(20, 10);
  raster.Polygon({2, 8, 8, 2}, {2, 2, 8, 8}, "#ff0000", 1.0);
  raster.Disc(15, 5, 3, "#0000ff", 0.5);
  raster.Line(-5, 9.5, 30, 9.5, 1.0, "#00ff00");  // partly outside
  const Decoded image = Decode(raster.Png());
  EXPECT_EQ(image.width, 20u);
  EXPECT_EQ(image.height, 10u);
  EXPECT_EQ(image.Pixel(5, 5), std::string("\xff\0\0", 3));
  EXPECT_EQ(image.Pixel(0, 0), "\xff\xff\xff");
  EXPECT_EQ(image.Pixel(15, 5), "\x80\x80\xff");
  EXPECT_EQ(image.Pixel(0, 9), std::string("\0\xff\0", 3));
}

TEST(Figure, IsTheSameInPixelsAsInText) {
  Figure figure(200, 120);
  Axes axes(figure, 0.0, 1.0, 2.0, 3.0);
  axes.Draw("a < b", "x", "y");
  figure.Dot(axes.At(0.5, 2.5), 4.0, "#1f5fa8");
  const std::string svg = figure.Svg();
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  const Spot middle = axes.At(0.5, 2.5);
  const Decoded image = Decode(figure.Png());
  const std::string pixel =
      image.Pixel(static_cast<size_t>(middle.x), static_cast<size_t>(middle.y));
  EXPECT_LT(static_cast<unsigned char>(pixel[0]), 100);
  EXPECT_GT(static_cast<unsigned char>(pixel[2]), 150);
}

}  // namespace
}  // namespace mneme
