#include "configs/text.h"

#include <cstdlib>
#include <limits>

#include "gtest/gtest.h"

namespace mneme {
namespace {

TEST(ParseInteger, ReadsTheWaysPeopleWriteNumbers) {
  EXPECT_EQ(ParseInteger("0"), 0);
  EXPECT_EQ(ParseInteger("-17"), -17);
  EXPECT_EQ(ParseInteger("1e9"), 1'000'000'000);
  EXPECT_EQ(ParseInteger("1.5e3"), 1500);
  EXPECT_EQ(ParseInteger("2_000_000"), 2'000'000);
  EXPECT_EQ(ParseInteger("4Ki"), 4096);
  EXPECT_EQ(ParseInteger("3Mi"), 3 << 20);
  EXPECT_EQ(ParseInteger("2Ti"), int64_t{2} << 40);
  EXPECT_EQ(ParseInteger("120e-1"), 12);
  EXPECT_EQ(ParseInteger("3.0"), 3);
  EXPECT_EQ(ParseInteger("9223372036854775807"), std::numeric_limits<int64_t>::max());
  // Exact where a double would round.
  EXPECT_EQ(ParseInteger("9007199254740993"), 9007199254740993);
}

TEST(ParseInteger, RefusesWhatIsNotWholeOrTooLarge) {
  for (const char* text : {"", "abc", "1.5", "1e-1", "_1", "1_", "1__0", "0x10", "1Kib", "Ki", "1e",
                           "1 2", "--1", "1.2.3", "nan", "1e99999"}) {
    EXPECT_FALSE(ParseInteger(text)) << text;
  }
  std::string why;
  EXPECT_FALSE(ParseInteger("9223372036854775808", &why));
  EXPECT_NE(why.find("64 bits"), std::string::npos);
  EXPECT_FALSE(ParseInteger("8e18_0", &why));
  EXPECT_FALSE(ParseInteger("9000Pi", &why));
  EXPECT_NE(why.find("64 bits"), std::string::npos);
}

TEST(NumberText, ReadsBackToTheSameBits) {
  for (const double value :
       {0.1, 1.0 / 3.0, 1e-20, 4e-4, -4.7750, 5e-324, 1.7976931348623157e308, 0.0}) {
    EXPECT_EQ(ParseNumber(NumberText(value)), value);
  }
  EXPECT_FALSE(ParseNumber("1e999"));
  EXPECT_FALSE(ParseNumber("nan"));
  EXPECT_FALSE(ParseNumber("0.5x"));
}

TEST(EditDistance, CountsInsertDeleteReplaceAndSwap) {
  EXPECT_EQ(EditDistance("heads", "heads"), 0);
  EXPECT_EQ(EditDistance("heads", "haeds"), 1);
  EXPECT_EQ(EditDistance("head", "heads"), 1);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(Nearest("topk", {"experts", "top_k", "groups"}), "top_k");
}

TEST(ResolvePath, ExpandsHomeAndVariables) {
  setenv("HOME", "/home/someone", 1);
  setenv("MNEME_TEST_WHERE", "deep/er", 1);
  unsetenv("MNEME_TEST_UNSET");
  std::string why;
  EXPECT_EQ(ResolvePath("~/x", "/base", &why), "/home/someone/x");
  EXPECT_EQ(ResolvePath("${MNEME_TEST_WHERE}/y", "/base", &why), "/base/deep/er/y");
  EXPECT_EQ(ResolvePath("../x/./y/", "/base/inner", &why), "/base/x/y");
  EXPECT_EQ(ResolvePath("/a b/c", "/base", &why), "/a b/c");
  EXPECT_FALSE(ResolvePath("${MNEME_TEST_UNSET}/y", "/base", &why));
  EXPECT_NE(why.find("MNEME_TEST_UNSET"), std::string::npos);
  EXPECT_FALSE(ResolvePath("${HOME/y", "/base", &why));
}

TEST(FormatBytes, HasOneDigitAndAUnit) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 40), "5.0 TiB");
}

}  // namespace
}  // namespace mneme
