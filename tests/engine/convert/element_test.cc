#include "engine/convert/element.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace mneme {
namespace {

double One(Element element, uint64_t bits) {
  double value = 0.0;
  Decode(element, &bits, absl::MakeSpan(&value, 1));
  return value;
}

TEST(Element, NamesGoBothWays) {
  for (int i = 0; i < kElements; ++i) {
    Element parsed = Element::kF64;
    EXPECT_TRUE(ParseElement(ElementName(static_cast<Element>(i)), parsed));
    EXPECT_EQ(parsed, static_cast<Element>(i));
  }
  Element unused;
  EXPECT_FALSE(ParseElement("F4", unused));
}

// Bit patterns from the OCP 8-bit formats, IEEE 754 and bf16's definition.
TEST(Element, SmallFloatsAreWhatTheirBitsSay) {
  EXPECT_EQ(One(Element::kF8E4M3, 0x7e), 448.0);
  EXPECT_EQ(One(Element::kF8E4M3, 0x38), 1.0);
  EXPECT_EQ(One(Element::kF8E4M3, 0xb9), -1.125);
  EXPECT_EQ(One(Element::kF8E4M3, 0x01), std::ldexp(1.0, -9));
  EXPECT_EQ(One(Element::kF8E4M3, 0x07), 7 * std::ldexp(1.0, -9));
  EXPECT_TRUE(std::isnan(One(Element::kF8E4M3, 0x7f)));
  EXPECT_TRUE(std::isnan(One(Element::kF8E4M3, 0xff)));
  EXPECT_EQ(One(Element::kF8E5M2, 0x7b), 57344.0);
  EXPECT_TRUE(std::isinf(One(Element::kF8E5M2, 0xfc)));
  EXPECT_EQ(One(Element::kF16, 0x7bff), 65504.0);
  EXPECT_EQ(One(Element::kF16, 0x0001), std::ldexp(1.0, -24));
  EXPECT_EQ(One(Element::kBf16, 0xc049), -3.140625);
  EXPECT_EQ(One(Element::kI8, 0xff), -1.0);
  EXPECT_EQ(One(Element::kU32, 0xffffffff), 4294967295.0);
}

TEST(Element, RoundsToNearestEven) {
  const std::vector<double> from = {1.0 + std::ldexp(1.0, -8), 1.0 + 3 * std::ldexp(1.0, -8),
                                    INFINITY, -0.0};
  std::vector<uint16_t> bits(from.size());
  Encode(Element::kBf16, from, bits.data());
  EXPECT_EQ(bits, (std::vector<uint16_t>{0x3f80, 0x3f82, 0x7f80, 0x8000}));
  std::vector<double> back(1);
  float f = 0.0f;
  Encode(Element::kF32, absl::MakeConstSpan(from).subspan(0, 1), &f);
  Decode(Element::kF32, &f, absl::MakeSpan(back));
  EXPECT_EQ(back[0], from[0]);
}

}  // namespace
}  // namespace mneme
