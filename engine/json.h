// Strict JSON on the way out: metrics, results, answers of verbs. Pure text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

// "\"...\"": control characters and bytes that are no UTF-8 (as U+FFFD) escaped.
std::string JsonString(const std::string& text);
// The text with U+FFFD in the place of every byte that is no UTF-8.
std::string CleanUtf8(const std::string& text);
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

}  // namespace mneme
