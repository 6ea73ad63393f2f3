#include "engine/json.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "configs/text.h"

namespace mneme {
namespace {

// Length of the well-formed UTF-8 sequence at `i`; 0 where there is none.
size_t SequenceLength(const std::string& text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char first = byte(i);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || i + length > text.size()) return 0;
  for (size_t k = i + 1; k < i + length; ++k) {
    if ((byte(k) & 0xc0) != 0x80) return 0;
  }
  const bool overlong =
      (first == 0xe0 && byte(i + 1) < 0xa0) || (first == 0xf0 && byte(i + 1) < 0x90);
  const bool surrogate = first == 0xed && byte(i + 1) >= 0xa0;
  const bool beyond = first == 0xf4 && byte(i + 1) >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

}  // namespace

std::string JsonString(const std::string& text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t length = SequenceLength(text, i);
    const char c = text[i];
    if (length == 0) {
      out += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::array<char, 8> escape;
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
      out += escape.data();
    } else {
      out.append(text, i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return out + "\"";
}

std::string CleanUtf8(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = SequenceLength(text, i);
    out += length == 0 ? "\xEF\xBF\xBD" : text.substr(i, length);
    i += length == 0 ? 1 : length;
  }
  return out;
}

std::string JsonNumber(double value) { return std::isfinite(value) ? NumberText(value) : "null"; }

JsonObject& JsonObject::AddRaw(const std::string& key, const std::string& json) {
  body_ += (body_.empty() ? "" : ", ") + JsonString(key) + ": " + json;
  return *this;
}

JsonObject& JsonObject::Add(const std::string& key, const std::string& value) {
  return AddRaw(key, JsonString(value));
}
JsonObject& JsonObject::Add(const std::string& key, const char* value) {
  return AddRaw(key, JsonString(value));
}
JsonObject& JsonObject::Add(const std::string& key, double value) {
  return AddRaw(key, JsonNumber(value));
}
JsonObject& JsonObject::Add(const std::string& key, int64_t value) {
  return AddRaw(key, std::to_string(value));
}
JsonObject& JsonObject::Add(const std::string& key, int value) {
  return AddRaw(key, std::to_string(value));
}
JsonObject& JsonObject::Add(const std::string& key, bool value) {
  return AddRaw(key, value ? "true" : "false");
}

std::string JsonArray(const std::vector<std::string>& elements) {
  return "[" + Join(elements, ", ") + "]";
}

std::string JsonArray(const std::vector<double>& values) {
  std::vector<std::string> elements;
  for (const double value : values) elements.push_back(JsonNumber(value));
  return JsonArray(elements);
}

}  // namespace mneme
