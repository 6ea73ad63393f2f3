// Strict JSON on the way out: metrics, results, answers of verbs, manifests. Pure text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

class Json;

// "\"...\"": control characters escaped, what is no UTF-8 as in CleanUtf8.
std::string JsonString(const std::string& text);
// The text with U+FFFD in the place of what is no UTF-8: of each begin of a character that breaks
// off (Unicode 15.0, 3.9, "maximal subparts"), and of each byte that begins none.
std::string CleanUtf8(const std::string& text);
// A key as a message names it: on one line, cut where it is long.
std::string ShownKey(const std::string& key);
// The shortest text of the same double; null where it is not finite, since JSON has no such number.
std::string JsonNumber(double value);

// An object on one line, keys in the order they were added.
class JsonObject {
 public:
  JsonObject& Add(const std::string& key, const std::string& value);
  JsonObject& Add(const std::string& key, const char* value);
  JsonObject& Add(const std::string& key, double value);
  JsonObject& Add(const std::string& key, int64_t value);
  JsonObject& Add(const std::string& key, int value);
  JsonObject& Add(const std::string& key, bool value);
  // Text that is JSON already.
  JsonObject& AddRaw(const std::string& key, const std::string& json);
  std::string Text() const { return "{" + body_ + "}"; }

 private:
  std::string body_;
};

// "[a, b]" of texts that are JSON already.
std::string JsonArray(const std::vector<std::string>& elements);
std::string JsonArray(const std::vector<double>& values);

// A value as text. On one line, as JsonObject has it; without any blanks; over many lines, `indent`
// blanks a level. The last two are what digests of manifests stand on: numbers there are JsonReal.
std::string JsonText(const Json& value);
std::string DenseJson(const Json& value);
std::string IndentedJson(const Json& value, int indent);

}  // namespace mneme
