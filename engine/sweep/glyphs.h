// A small bitmap font for figures in pixels: 5 columns, 9 rows (the last two below the line).
#pragma once

#include <array>
#include <cstdint>

namespace mneme {

// Rows from the top, five bits each, the leftmost the highest. Characters that the font has not are
// a box.
std::array<uint8_t, 9> Glyph(char c);

}  // namespace mneme
