#include "engine/convert/json_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mneme {
namespace {

TEST(JsonTree, KeepsValuesAndOrder) {
  const auto tree = ParseJson(R"({"b": [1, -2.5, "x"], "a": {"c": null, "d": true}})", "f");
  ASSERT_TRUE(tree.ok()) << tree.status();
  EXPECT_EQ(ShowJson(*tree), R"({"b": [1, -2.5, "x"], "a": {"c": null, "d": true}})");
  EXPECT_EQ(tree->members[0].key, "b");
  EXPECT_EQ(tree->Find("b")->items[0].integer, 1);
  EXPECT_EQ(tree->Find("b")->items[1].number, -2.5);
  EXPECT_TRUE(tree->Find("a")->Find("c")->is_null());
  EXPECT_EQ(tree->Find("z"), nullptr);
}

TEST(JsonTree, RefusesWhatIsNoSoundJson) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "not JSON"},
      {"{", "not JSON"},
      {"{} x", "not JSON"},
      {R"({"a": 1, "a": 2})", "'a' is there twice"},
      {"18446744073709551615", "beyond 2^63"},
      {std::string(100, '['), "nested deeper"},
      {"\"\xff\"", "not JSON"},
  };
  for (const auto& [text, why] : cases) {
    const auto tree = ParseJson(text, "here.json");
    ASSERT_FALSE(tree.ok()) << text;
    EXPECT_THAT(std::string(tree.status().message()), testing::HasSubstr(why));
    EXPECT_THAT(std::string(tree.status().message()), testing::StartsWith("here.json: "));
  }
}

}  // namespace
}  // namespace mneme
