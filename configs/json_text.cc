#include "configs/json_text.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <utility>

#include "configs/json.h"
#include "configs/text.h"

namespace mneme {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD
constexpr size_t kLongestKey = 100;              // of a key in a message

struct Piece {
  size_t bytes;
  bool sound;
};

// The UTF-8 sequence at `i`, or as much of it as is well-formed, a byte at least.
Piece PieceAt(const std::string& text, size_t i) {
  const auto byte = [&](size_t k) -> int {
    return k < text.size() ? static_cast<unsigned char>(text[k]) : 0;  // 0 continues nothing
  };
  const int first = byte(i);
  if (first < 0x80) return {1, true};
  if (first < 0xc2 || first > 0xf4) return {1, false};
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  // The second byte's range leaves out overlong forms, surrogates and what is beyond U+10FFFF.
  int low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  int high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  size_t bytes = 1;
  for (; bytes < length && byte(i + bytes) >= low && byte(i + bytes) <= high; ++bytes) {
    low = 0x80;
    high = 0xbf;
  }
  return {bytes, bytes == length};
}

// What stands for a character in a text; empty: itself.
std::string EscapeOf(char c) {
  if (static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\') return "";
  static constexpr char kShort[] = "\"\"\\\\\bb\ff\nn\rr\tt";  // pairs
  for (const char* pair = kShort; *pair != '\0'; pair += 2) {
    if (*pair == c) return {'\\', pair[1]};
  }
  std::array<char, 8> escape;
  std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
  return escape.data();
}

// Puts the text of values behind one another.
class Writer {
 public:
  using NumberWriter = std::string (*)(double);
  // `indent` < 0: on one line.
  Writer(const char* comma, const char* colon, int indent, NumberWriter number)
      : comma_(comma), colon_(colon), indent_(indent), number_(number) {}

  void Write(const Json& value) {
    if (const Json::Object* object = value.object()) {
      Enclose('{', '}', *object, [&](const JsonMember& member) {
        out += JsonString(member.key) + colon_;
        Write(member.value);
      });
    } else if (const Json::List* list = value.list()) {
      Enclose('[', ']', *list, [&](const Json& item) { Write(item); });
    } else if (const std::string* text = value.text()) {
      out += JsonString(*text);
    } else if (const int64_t* integer = value.integer()) {
      out += std::to_string(*integer);
    } else if (const std::optional<double> number = value.number()) {
      out += number_(*number);
    } else {
      out += value.truth() == nullptr ? "null" : *value.truth() ? "true" : "false";
    }
  }

  std::string out;

 private:
  template <class Items, class WriteItem>
  void Enclose(char open, char close, const Items& items, const WriteItem& write) {
    out += open;
    ++depth_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += comma_;
      NewLine();
      write(items[i]);
    }
    --depth_;
    if (!items.empty()) NewLine();
    out += close;
  }
  void NewLine() {
    if (indent_ >= 0) out += "\n" + std::string(static_cast<size_t>(depth_ * indent_), ' ');
  }

  const char* const comma_;
  const char* const colon_;
  const int indent_;
  const NumberWriter number_;
  int depth_ = 0;
};

std::string Written(Writer writer, const Json& value) {
  writer.Write(value);
  return std::move(writer.out);
}

}  // namespace

std::string JsonString(const std::string& text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const Piece piece = PieceAt(text, i);
    const std::string escape = EscapeOf(text[i]);
    if (piece.sound && escape.empty()) {
      out.append(text, i, piece.bytes);
    } else {
      out += piece.sound ? escape : kReplacement;
    }
    i += piece.bytes;
  }
  return out + "\"";
}

std::string CleanUtf8(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const Piece piece = PieceAt(text, i);
    out += piece.sound ? text.substr(i, piece.bytes) : kReplacement;
    i += piece.bytes;
  }
  return out;
}

std::string ShownKey(const std::string& key) {
  const std::string quoted = JsonString(key.substr(0, kLongestKey));
  return quoted.substr(1, quoted.size() - 2) + (key.size() > kLongestKey ? "..." : "");
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

std::string JsonText(const Json& value) {
  return Written(Writer(", ", ": ", -1, JsonNumber), value);
}

std::string DenseJson(const Json& value) { return Written(Writer(",", ":", -1, JsonReal), value); }

std::string IndentedJson(const Json& value, int indent) {
  return Written(Writer(",", ": ", indent, JsonReal), value);
}

}  // namespace mneme
