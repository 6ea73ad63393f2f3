#include "data/canonical.h"

#include <set>

#include "data/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mneme {
namespace {

TEST(CanonicalTest, NormalizesAsThePaperHasIt) {
  for (const char* apple : {" Apple", "apple", "APPLE", "\tapple\n"}) {
    EXPECT_EQ(NormalizeToken(apple), "apple");
  }
  EXPECT_EQ(NormalizeToken("é"), "e");
  EXPECT_EQ(NormalizeToken("É"), "e");
  EXPECT_EQ(NormalizeToken("e\u0301"), "e");
  EXPECT_EQ(NormalizeToken(" e"), "e");
  EXPECT_EQ(NormalizeToken("Ａ"), "a");  // full width
  EXPECT_EQ(NormalizeToken("ﬁ"), "fi");
  EXPECT_EQ(NormalizeToken("ß"), "ß");  // lower case, not case folding
  EXPECT_EQ(NormalizeToken("Σ"), "σ");  // no final sigma
  EXPECT_EQ(NormalizeToken("İ"), "i");
  EXPECT_EQ(NormalizeToken("ΟΔΟΣ"), "οδοσ");
  EXPECT_EQ(NormalizeToken("\u0915\u093F"), "\u0915");  // Mc goes, as Mn does
  for (const char* blank : {" ", "\n\n", "\t", "\r\n \t", "\u3000", "\u00A0"}) {
    EXPECT_EQ(NormalizeToken(blank), " ") << blank;
  }
  EXPECT_EQ(NormalizeToken("a \n\t b"), "a b");
  EXPECT_EQ(NormalizeToken("\u0301"), "");          // marks alone
  EXPECT_EQ(NormalizeToken("\u2028x\u0085"), "x");  // White_Space on both sides
  EXPECT_EQ(NormalizeToken(std::string("\0", 1)), std::string("\0", 1));
}

TEST(CanonicalTest, IdsComeByFirstOccurrence) {
  const auto text = [](const std::string& s) { return TokenText{.decoded = s, .raw = s}; };
  const std::vector<TokenText> tokens = {text("<s>"),
                                         text("</s>"),
                                         text("<pad>"),
                                         text(" Apple"),
                                         text("b"),
                                         text("apple"),
                                         text("APPLE"),
                                         text("\n"),
                                         text(" "),
                                         text("\u0301"),
                                         {.decoded = "\uFFFD", .raw = "Ã"},
                                         {.decoded = "\uFFFD", .raw = "B"},
                                         {.decoded = "\uFFFD", .raw = "b"}};
  const CanonicalMap map = MakeCanonicalMap(tokens);
  // Fragments keep their raw strings, which are not normalised but share the dictionary.
  EXPECT_THAT(map.ids, testing::ElementsAre(0, 1, 2, 3, 4, 3, 3, 5, 5, 6, 7, 8, 4));
  EXPECT_EQ(map.size, 9);
}

TEST(CanonicalTest, BytesMergeCaseAndBlanksOnly) {
  const VocabularyInfo v = ByteTokenizer()->vocabulary();
  ASSERT_EQ(v.canonical.size(), 258u);
  EXPECT_EQ(v.size, 258);
  EXPECT_EQ(v.eos, 256);
  EXPECT_EQ(v.pad, 257);
  EXPECT_EQ(v.bos, -1);
  EXPECT_EQ(v.canonical_size, 258 - 26 - 3);
  const auto canonical = [&](int id) { return v.canonical[static_cast<size_t>(id)]; };
  for (int letter = 0; letter < 26; ++letter)
    EXPECT_EQ(canonical('A' + letter), canonical('a' + letter));
  for (const int blank : {'\t', '\n', '\r'}) EXPECT_EQ(canonical(blank), canonical(' '));
  EXPECT_NE(canonical('\v'), canonical(' '));
  std::set<int32_t> upper(v.canonical.begin() + 128, v.canonical.end());
  EXPECT_EQ(upper.size(), 130u);  // fragments, end of document and pad keep their own
  EXPECT_EQ(*std::max_element(v.canonical.begin(), v.canonical.end()) + 1, v.canonical_size);
}

TEST(TokenizerTest, BytesGoThereAndBack) {
  const auto bytes = ByteTokenizer();
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  std::vector<int32_t> ids = {7};
  bytes->Encode(all, ids);
  ASSERT_EQ(ids.size(), 257u);
  EXPECT_EQ(ids[0], 7);
  EXPECT_EQ(ids[256], 255);
  EXPECT_EQ(bytes->Decode(absl::MakeSpan(ids).subspan(1)), all);
  EXPECT_EQ(bytes->Decode({'a', 256, 'b', 257}), "ab");
  EXPECT_EQ(bytes->Show('e'), "e");
  EXPECT_EQ(bytes->Show('\n'), "↵");
  EXPECT_EQ(bytes->Show(0xe2), "<e2>");
  EXPECT_EQ(bytes->Show(256), "<|end of document|>");
}

TEST(TokenizerTest, IdsMadeElsewhereHaveNone) {
  VocabularyInfo vocabulary = ByteTokenizer()->vocabulary();
  EXPECT_TRUE(MakeTokenizer(vocabulary).ok());
  vocabulary.tokenizer = "external";
  vocabulary.digest = "other";
  EXPECT_EQ(MakeTokenizer(vocabulary).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace mneme
