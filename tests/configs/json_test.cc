#include "configs/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "configs/json_fields.h"
#include "configs/json_text.h"

namespace mneme {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::SizeIs;

std::string ErrorOf(const std::string& text) {
  const auto json = ParseJson(text);
  return json.ok() ? "none" : std::string(json.status().message());
}

TEST(Json, KeepsValuesAndOrder) {
  const auto json = ParseJson(R"({"b": [1, -2.5, "x"], "a": {"c": null, "d": true}})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(JsonText(*json), R"({"b": [1, -2.5, "x"], "a": {"c": null, "d": true}})");
  EXPECT_EQ(json->object()->at(0).key, "b");
  const Json::List& list = *json->Find("b")->list();
  EXPECT_EQ(*list[0].integer(), 1);
  EXPECT_EQ(*list[0].number(), 1.0);
  EXPECT_EQ(*list[1].number(), -2.5);
  EXPECT_EQ(list[1].integer(), nullptr);
  EXPECT_EQ(*list[2].text(), "x");
  EXPECT_TRUE(json->Find("a")->Find("c")->is_null());
  EXPECT_TRUE(*json->Find("a")->Find("d")->truth());
  EXPECT_EQ(json->Find("z"), nullptr);
  EXPECT_EQ(list[0].Find("z"), nullptr);
}

TEST(Json, SetsInPlaceOrBehind) {
  Json json = ParseJson(R"({"a": 1, "b": 2})").value();
  json.Set("a", "x");
  json.Set("c", Json::List{true, Json()});
  EXPECT_EQ(DenseJson(json), R"({"a":"x","b":2,"c":[true,null]})");
}

TEST(Json, IntegersHave64BitsAndMoreAreNumbers) {
  const Json kept =
      ParseJson("[9223372036854775807, -9223372036854775808, 9223372036854775808, 1e30]").value();
  EXPECT_EQ(*kept.list()->at(0).integer(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(*kept.list()->at(1).integer(), std::numeric_limits<int64_t>::min());
  for (const size_t i : {2u, 3u}) EXPECT_EQ(kept.list()->at(i).integer(), nullptr);
  EXPECT_EQ(*kept.list()->at(2).number(), 9223372036854775808.0);
  EXPECT_EQ(*kept.list()->at(3).number(), 1e30);
  EXPECT_THAT(ErrorOf("[1e400]"),
              HasSubstr("is not JSON: byte 6: number overflow parsing '1e400'"));
}

TEST(Json, RefusesWhatIsNoSoundJsonInOneShortLine) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "is not JSON: column 1: syntax error"},
      {"{", "is not JSON: column 2: syntax error"},
      {"{} x", "is not JSON: column 4: syntax error"},
      {"{\"a\":\n1,\n}", "is not JSON: line 3, column 1: syntax error"},
      {"[1]\n", "none"},
      {"[1\n", "is not JSON: "},
      {"\"\xff\"", "ill-formed UTF-8"},
      {"\"\\ud800\"", "surrogate"},
      {"\"a\nb\"", "control character"},
      {"\"" + std::string(1 << 20, 'a'), " ..."},
      {"[NaN]", "is not JSON: column 2"},
      {std::string("{}\0\0", 4), "is not JSON: byte 3 is zero"},
      {std::string("[\"a\0b\"]", 7), "is not JSON: byte 4 is zero"},
      {"\xEF\xBB\xBF{}", "none"},  // a byte order mark
      {"\xFF\xFE{", "is not JSON: column 1"},
      {"[1] // why", "is not JSON: column 5"},
      {R"({"a": 1, "a": 2})", "'a' is there twice"},
      {R"({"b": {"a": 1, "c": 3, "a": 2}})", "'a' is there twice"},
      {R"({"a\nb": 1, "a\nb": 2})", R"('a\nb' is there twice)"},
      {"{\"" + std::string(1000, 'a') + "\": 1, \"" + std::string(1000, 'a') + "\": 2}",
       "aa...' is there twice"},
      {std::string(65, '['), "is JSON nested deeper than 64"},
      {std::string(10'000'000, '['), "is JSON nested deeper than 64"},
      {std::string(64, '[') + std::string(64, ']'), "none"},
  };
  for (const auto& [text, why] : cases) {
    const std::string error = ErrorOf(text);
    EXPECT_THAT(error, HasSubstr(why)) << text.substr(0, 100);
    EXPECT_THAT(error, testing::Not(HasSubstr("exception")));
    EXPECT_EQ(error.find('\n'), std::string::npos);
    EXPECT_LT(error.size(), 300u);
    EXPECT_EQ(CleanUtf8(error), error);
  }
}

// Among many keys as among few.
TEST(Json, AKeyTwiceIsSeenAmongMany) {
  std::string members;
  for (int i = 0; i < 100'000; ++i) members += "\"k" + std::to_string(i) + "\": 1, ";
  EXPECT_EQ(ErrorOf("{" + members + "\"x\": 1}"), "none");
  for (const char* key : {"k0", "k15", "k16", "k17", "k99999"}) {
    EXPECT_EQ(ErrorOf("{" + members + "\"" + key + "\": 1}"),
              "'" + std::string(key) + "' is there twice");
  }
}

TEST(JsonFields, ReadsWhatMustBeThereAndWhatMay) {
  const Json json = ParseJson(R"({"i": 3, "x": 2.5, "t": true, "s": "y", "xs": [1, 2.5],
      "two": [4, 5], "in": {"i": 6}, "each": [{"i": 7}, {"i": 8}], "by": {"a/b": {"i": 9}}})")
                        .value();
  std::vector<std::string> faults;
  JsonFields fields(json, "", faults);
  EXPECT_EQ(fields.Integer("i"), 3);
  EXPECT_EQ(fields.Integer("absent", 4), 4);
  EXPECT_EQ(fields.Number("x"), 2.5);
  EXPECT_EQ(fields.Number("i"), 3.0);
  EXPECT_TRUE(fields.Flag("t"));
  EXPECT_TRUE(fields.Flag("absent", true));
  EXPECT_EQ(fields.Text("s"), "y");
  EXPECT_THAT(fields.Numbers("xs"), ElementsAre(1.0, 2.5));
  EXPECT_THAT(fields.Integers("two", 2), ElementsAre(4, 5));
  EXPECT_EQ(fields.Fields("in").Integer("i"), 6);
  EXPECT_EQ(fields.FieldsOfEach("each").at(1).Integer("i"), 8);
  EXPECT_EQ(fields.FieldsByKey("by").at(0).first, "a/b");
  EXPECT_EQ(fields.FieldsByKey("by").at(0).second.Integer("i"), 9);
  EXPECT_THAT(faults, SizeIs(0));
}

TEST(JsonFields, SaysWhereAndWhatIsWrong) {
  const Json json = ParseJson(R"({"i": 2.5, "big": 9223372036854775808, "x": "a", "t": 1,
      "s": null, "xs": [1, "b"], "two": [1, 2, 3],
      "each": [{"i": 1}, 5, {"i": {}}], "in": [], "by": {"a": 1}})")
                        .value();
  const auto faults_of = [&](auto read) {
    std::vector<std::string> faults;
    JsonFields fields(json, "at.", faults);
    read(fields);
    return faults;
  };
  using F = JsonFields&;
  EXPECT_THAT(faults_of([](F f) { EXPECT_EQ(f.Integer("i"), 0); }),
              ElementsAre("at.i: is 2.5, not a whole number of 64 bits"));
  EXPECT_THAT(faults_of([](F f) { EXPECT_EQ(f.Integer("i", 7), 7); }), SizeIs(1));
  EXPECT_THAT(faults_of([](F f) { f.Integer("big"); }), SizeIs(1));
  EXPECT_THAT(faults_of([](F f) { f.Integer("absent"); }), ElementsAre("at.absent: is missing"));
  EXPECT_THAT(faults_of([](F f) { f.Number("x"); }), ElementsAre("at.x: is \"a\", not a number"));
  EXPECT_THAT(faults_of([](F f) { f.Flag("t"); }), ElementsAre("at.t: is 1, not true or false"));
  EXPECT_THAT(faults_of([](F f) { f.Text("t"); }), ElementsAre("at.t: is 1, not a text"));
  EXPECT_THAT(faults_of([](F f) { f.Text("s"); }), ElementsAre("at.s: is missing"));
  EXPECT_THAT(faults_of([](F f) { f.Numbers("xs"); }),
              ElementsAre("at.xs: is \"b\", not a number"));
  EXPECT_THAT(faults_of([](F f) { EXPECT_THAT(f.Integers("two", 2), ElementsAre(0, 0)); }),
              ElementsAre("at.two: is [1, 2, 3], not a list of 2 whole numbers"));
  EXPECT_THAT(faults_of([](F f) { EXPECT_THAT(f.Integers("xs", 2), SizeIs(2)); }), SizeIs(1));
  EXPECT_THAT(faults_of([](F f) { f.Integers("t", 2); }), ElementsAre("at.t: is 1, not a list"));
  EXPECT_THAT(faults_of([](F f) { f.Fields("in").Integer("i"); }),
              ElementsAre("at.in: is [], not an object", "at.in.i: is missing"));
  EXPECT_THAT(faults_of([](F f) {
                for (JsonFields& each : f.FieldsOfEach("each")) each.Integer("i");
              }),
              ElementsAre("at.each[1]: is 5, not an object", "at.each[1].i: is missing",
                          "at.each[2].i: is {}, not a whole number of 64 bits"));
  EXPECT_THAT(faults_of([](F f) { f.FieldsByKey("by"); }),
              ElementsAre("at.by.a: is 1, not an object"));
  EXPECT_THAT(faults_of([](F f) {
                for (int i = 0; i < 1000; ++i) f.Integer("absent");
              }),
              SizeIs(100));
  EXPECT_THAT(ShowJson(Json(std::string(1000, 'a'))), AllOf(SizeIs(104), EndsWith("aa ...")));
}

TEST(JsonFields, NamesAnyKeyOnOneShortLine) {
  const std::string key = std::string(90, 'a') + "\n\x1b[2J" + std::string(10'000, 'b');
  Json json, inner;
  inner.Set(key, 1);
  json.Set("by", inner);
  std::vector<std::string> faults;
  JsonFields fields(json, "", faults);
  for (auto& [name, each] : fields.FieldsByKey("by")) each.Integer("i");
  const std::string shown = "by." + std::string(90, 'a') + "\\n\\u001b[2Jbbbbb...";
  EXPECT_THAT(faults, ElementsAre(shown + ": is 1, not an object", shown + ".i: is missing"));
}

TEST(JsonString, EscapesControlsAndReplacesBadUtf8) {
  EXPECT_EQ(JsonString("a\x01\t\"\\é"), "\"a\\u0001\\t\\\"\\\\é\"");
  EXPECT_EQ(*ParseJson(JsonString("a\x01\t\"\\é")).value().text(), "a\x01\t\"\\é");
  const std::string spoilt = "x\xff\xc3y\xed\xa0\x80\xe2\x82z\xf0\x9f\x98";
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(CleanUtf8(spoilt), "x" + bad + bad + "y" + bad + bad + bad + bad + "z" + bad);
  EXPECT_EQ(*ParseJson(JsonString(spoilt)).value().text(), CleanUtf8(spoilt));
}

TEST(JsonText, OfNumbers) {
  EXPECT_EQ(JsonNumber(1.0), "1");
  EXPECT_EQ(JsonReal(1.0), "1.0");
  EXPECT_EQ(JsonReal(1e-5), "1e-05");
  EXPECT_EQ(JsonReal(-0.0), "-0.0");
  EXPECT_EQ(JsonReal(1e16), "1e+16");
  EXPECT_EQ(JsonReal(0.0001), "0.0001");
  for (const double x : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    EXPECT_EQ(JsonNumber(x), "null");
    EXPECT_EQ(JsonReal(x), "null");
  }
}

// A value, of anything and at any depth, and the same as nlohmann's.
struct Pair {
  Json ours;
  nlohmann::ordered_json theirs;
};

class Random {
 public:
  int64_t Below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  std::string Text() {
    static const std::string kParts[] = {"a",
                                         "B/",
                                         "é",
                                         "漢",
                                         "😀",
                                         "\"",
                                         "\\",
                                         "\n",
                                         "\t\b\f\r",
                                         "\x01",
                                         "\x1f\x7f",
                                         "\xff",
                                         "\xc3",
                                         "\xe2\x82",
                                         "\xed\xa0\x80",
                                         "\xf0\x9f\x98",
                                         "\xf4\x90\x80",
                                         "\xe0\x80\x80",
                                         "\xc0\xaf"};
    std::string text;
    for (int64_t n = Below(5); n > 0; --n) text += kParts[Below(std::size(kParts))];
    for (int64_t n = Below(4); n > 0; --n) text += static_cast<char>(Below(256));
    return text;
  }
  double Number() {
    if (Below(2) == 0) return std::ldexp(static_cast<double>(Below(1 << 20)), -10);
    return std::bit_cast<double>(engine_());
  }
  Pair Value(int depth) {
    const int64_t kind = Below(depth > 0 ? 7 : 5);
    if (kind == 0) return {Json(), nullptr};
    if (kind == 1) return Same(Below(2) == 0);
    if (kind == 2) return Same(static_cast<int64_t>(engine_()) >> Below(64));
    if (kind == 3) return Same(Number());
    if (kind == 4) return Same(Text());
    Pair all = {Json::List(), nlohmann::ordered_json::array()};
    if (kind == 6) all = {Json::Object(), nlohmann::ordered_json::object()};
    for (int64_t i = Below(4); i > 0; --i) {
      Pair inner = Value(depth - 1);
      if (kind == 6) {
        const std::string key = Text() + std::to_string(i);
        all.ours.Set(key, std::move(inner.ours));
        all.theirs[key] = std::move(inner.theirs);
      } else {
        all.ours.list()->push_back(std::move(inner.ours));
        all.theirs.push_back(std::move(inner.theirs));
      }
    }
    return all;
  }

 private:
  template <class T>
  static Pair Same(const T& value) {
    return {Json(value), value};
  }

  std::mt19937_64 engine_{7};
};

// The texts that digests of manifests stand on were nlohmann's from the first one on.
TEST(JsonText, DenseAndIndentedAreNlohmannsToTheByte) {
  const auto dumped = [](const nlohmann::ordered_json& json, int indent) {
    return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  };
  Random random;
  for (int i = 0; i < 20'000; ++i) {
    const Pair value = random.Value(4);
    const std::string dense = DenseJson(value.ours);
    ASSERT_EQ(dense, dumped(value.theirs, -1));
    ASSERT_EQ(IndentedJson(value.ours, 1), dumped(value.theirs, 1));
    ASSERT_EQ(IndentedJson(value.ours, 2), dumped(value.theirs, 2));
    const auto read = ParseJson(dense);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(DenseJson(*read), dense);
    ASSERT_EQ(DenseJson(*ParseJson(IndentedJson(*read, 2))), dense);
    const auto line = nlohmann::ordered_json::parse(JsonText(value.ours));
    ASSERT_EQ(line, nlohmann::ordered_json::parse(dense));
  }
}

}  // namespace
}  // namespace mneme
