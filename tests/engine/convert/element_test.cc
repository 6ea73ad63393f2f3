#include "engine/convert/element.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <tuple>
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

// Every element from its bytes, the first and the last of its range.
TEST(Element, WholeNumbersAndFloatsAreRead) {
  const std::vector<std::tuple<Element, uint64_t, double>> cases = {
      {Element::kI8, 0x80, -128.0},
      {Element::kI8, 0x7f, 127.0},
      {Element::kU8, 0xff, 255.0},
      {Element::kBool, 0x01, 1.0},
      {Element::kI16, 0x8000, -32768.0},
      {Element::kI16, 0x7fff, 32767.0},
      {Element::kU16, 0xffff, 65535.0},
      {Element::kI32, 0x80000000, -2147483648.0},
      {Element::kI32, 0x7fffffff, 2147483647.0},
      {Element::kU32, 0x80000000, 2147483648.0},
      {Element::kI64, 0x8000000000000000, -std::ldexp(1.0, 63)},
      {Element::kI64, 0xffffffffffffffff, -1.0},
      {Element::kU64, 0x8000000000000000, std::ldexp(1.0, 63)},
      {Element::kF32, 0xc0490000, -3.140625},
      {Element::kF64, 0xc009200000000000, -3.140625}};
  for (const auto& [element, bits, value] : cases) {
    EXPECT_EQ(One(element, bits), value) << ElementName(element);
    // Two beside each other: the second stands right behind the first.
    std::vector<char> bytes(2 * static_cast<size_t>(BytesOf(element)));
    std::memcpy(bytes.data() + BytesOf(element), &bits, static_cast<size_t>(BytesOf(element)));
    std::vector<double> both(2);
    Decode(element, bytes.data(), absl::MakeSpan(both));
    EXPECT_EQ(both, (std::vector<double>{0.0, value})) << ElementName(element);
  }
}

TEST(Element, WhatIsWrittenIsRead) {
  const std::vector<double> numbers = {-7.0, 0.0, 40000.0};
  for (const Element element : {Element::kF64, Element::kF32, Element::kI64, Element::kI32}) {
    std::vector<char> bytes(3 * static_cast<size_t>(BytesOf(element)));
    Encode(element, numbers, bytes.data());
    std::vector<double> back(3);
    Decode(element, bytes.data(), absl::MakeSpan(back));
    EXPECT_EQ(back, numbers) << ElementName(element);
  }
}

}  // namespace
}  // namespace mneme
