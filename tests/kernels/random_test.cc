#include "kernels/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace mneme::test {
namespace {

using Words = std::array<uint32_t, 4>;

// The known-answer vectors of Random123 for philox4x32, 10 rounds.
TEST(RandomTest, PhiloxKnownAnswers) {
  EXPECT_EQ(PhiloxBlock({0, 0}, {0, 0, 0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(PhiloxBlock({~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(PhiloxBlock({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, DrawsAreHalvesOfBlocksAndDoNotDependOnOrder) {
  const RandomKey key = MakeKey(1, "blocks.0.mla.q");
  for (const uint64_t i : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 40}) {
    const Words block = Philox(key, i / 2);
    const size_t half = i % 2 * 2;
    EXPECT_EQ(RandomBits(key, i), block[half] | static_cast<uint64_t>(block[half + 1]) << 32);
    EXPECT_EQ(RandomUniform(key, i),
              std::ldexp(static_cast<double>(RandomBits(key, i) >> 11), -53));
  }
  std::vector<double> whole(700);
  std::vector<double> part(300);
  FillNormal(key, 11, 700, 0.5, whole.data());
  FillNormal(key, 11 + 123, 300, 0.5, part.data());
  for (size_t i = 0; i < part.size(); ++i) EXPECT_EQ(part[i], whole[i + 123]);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i], 0.5 * RandomNormal(key, 11 + i));
  std::vector<float> narrow(700);
  FillNormal(key, 11, 700, 0.5, narrow.data());
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(narrow[i], static_cast<float>(whole[i]));
}

// Bits that must never change: weights of every run rest on them.
TEST(RandomTest, GoldenDraws) {
  const RandomKey key = MakeKey(1234, "embedding");
  EXPECT_EQ(key.k0, 0x3a7369b4u);
  EXPECT_EQ(key.k1, 0x6cf2c449u);
  EXPECT_EQ(RandomBits(key, 0), 0xf4adc0c33cced536u);
  EXPECT_EQ(RandomNormal(key, 0), 0x1.b4220f97e201ep+0);
  EXPECT_EQ(RandomNormal(key, 12345678901), -0x1.2ff3866392818p+0);
}

TEST(RandomTest, KeysDifferByNameAndSeed) {
  const RandomKey a = MakeKey(1, "x");
  const RandomKey b = MakeKey(2, "x");
  const RandomKey c = MakeKey(1, "y");
  EXPECT_TRUE(a.k0 != b.k0 && a.k1 != b.k1);
  EXPECT_TRUE(a.k0 != c.k0 && a.k1 != c.k1);
}

// Moments, shares of quantile cells and the far tails of a million draws, each within five standard
// errors.
TEST(RandomTest, NormalsAreNormal) {
  const int64_t n = 1'000'000;
  std::vector<double> x(static_cast<size_t>(n));
  FillNormal(MakeKey(9, "normal"), 0, n, 1.0, x.data());
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (const double v : x) {
    m1 += v;
    m2 += v * v;
    m3 += v * v * v;
    m4 += v * v * v * v;
  }
  const double count = static_cast<double>(n);
  EXPECT_NEAR(m1 / count, 0, 5 / std::sqrt(count));
  EXPECT_NEAR(m2 / count, 1, 5 * std::sqrt(2 / count));
  EXPECT_NEAR(m3 / count, 0, 5 * std::sqrt(15 / count));
  EXPECT_NEAR(m4 / count, 3, 5 * std::sqrt(96 / count));
  for (const double at : {-4.0, -3.0, -1.5, -0.5, 0.0, 0.1, 1.0, 2.5, 3.5}) {
    const double p = std::erfc(-at / std::sqrt(2)) / 2;
    const double share =
        static_cast<double>(std::count_if(x.begin(), x.end(), [=](double v) { return v < at; })) /
        count;
    EXPECT_NEAR(share, p, 5 * std::sqrt(p * (1 - p) / count)) << at;
  }
}

// The inverse is right far out too: the distribution function leads back to the uniform draw.
TEST(RandomTest, NormalsInvertTheDistributionFunction) {
  const RandomKey key = MakeKey(2, "invert");
  double least = 1;
  for (uint64_t i = 0; i < 200'000; ++i) {
    const double u = RandomUniform(key, i) + 0x1p-54;
    const double back = std::erfc(-RandomNormal(key, i) / std::sqrt(2)) / 2;
    ASSERT_NEAR(back / u, 1, 2e-14 + 4e-16 / u) << i;
    least = std::min(least, u);
  }
  EXPECT_LT(least, 1e-4);
}

TEST(RandomTest, UniformsAndIntegersFillTheirRanges) {
  const RandomKey key = MakeKey(3, "uniform");
  const int64_t n = 7;
  std::vector<int64_t> seen(static_cast<size_t>(n));
  double sum = 0;
  for (uint64_t i = 0; i < 70'000; ++i) {
    const double u = RandomUniform(key, i);
    ASSERT_TRUE(u >= 0 && u < 1);
    sum += u;
    const int64_t k = RandomInt(key, i, n);
    ASSERT_TRUE(k >= 0 && k < n);
    ++seen[static_cast<size_t>(k)];
  }
  EXPECT_NEAR(sum / 70'000, 0.5, 5 / std::sqrt(12 * 70'000.0));
  for (const int64_t count : seen) EXPECT_NEAR(static_cast<double>(count), 10'000, 5 * 93);
  EXPECT_GT(RandomInt(key, 0, int64_t{1} << 62) | RandomInt(key, 1, int64_t{1} << 62),
            int64_t{1} << 60);
}

TEST(RandomTest, PermuteIsAPermutation) {
  for (const int64_t n : {1, 2, 3, 5, 16, 17, 137, 1000, 4097}) {
    for (const uint64_t seed : {1u, 2u}) {
      const RandomKey key = MakeKey(seed, "order");
      std::vector<bool> seen(static_cast<size_t>(n));
      int64_t at_home = 0;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t to = Permute(key, i, n);
        ASSERT_TRUE(to >= 0 && to < n);
        ASSERT_FALSE(seen[static_cast<size_t>(to)]);
        seen[static_cast<size_t>(to)] = true;
        at_home += to == i;
      }
      if (n >= 137) {
        EXPECT_LE(at_home, 8) << n;
      }
    }
  }
}

TEST(RandomTest, PermuteMixesAndReachesBeyond32Bits) {
  const int64_t n = 10'000;
  const RandomKey key = MakeKey(4, "order");
  double product = 0;
  for (int64_t i = 0; i < n; ++i) {
    product +=
        (static_cast<double>(i) - 4999.5) * (static_cast<double>(Permute(key, i, n)) - 4999.5);
  }
  const double variance = (1e8 - 1) / 12;
  EXPECT_NEAR(product / 1e4 / variance, 0, 5 / std::sqrt(1e4));
  const int64_t huge = 100'000'000'000;
  EXPECT_NE(Permute(key, 0, huge), Permute(key, 1, huge));
  EXPECT_GT(std::max(Permute(key, 0, huge), Permute(key, 1, huge)), int64_t{1} << 32);
}

}  // namespace
}  // namespace mneme::test
