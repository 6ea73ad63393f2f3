// JSON from anywhere as a plain value. Pure; never throws. json.cc is the only file that knows the
// parser. Members that must be there: json_fields.h; text on the way out: json_text.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

struct JsonMember;

// What it is shows in which accessor gives something.
class Json {
 public:
  using List = std::vector<Json>;
  using Object = std::vector<JsonMember>;  // in their order

  Json();  // null
  Json(bool truth);
  Json(int integer);
  Json(int64_t integer);
  Json(double number);
  Json(const char* text);
  Json(std::string text);
  Json(List list);
  Json(Object object);

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  const bool* truth() const { return std::get_if<bool>(&value_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
  std::optional<double> number() const;  // of integers too
  const std::string* text() const { return std::get_if<std::string>(&value_); }
  const List* list() const { return std::get_if<List>(&value_); }
  List* list() { return std::get_if<List>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  Object* object() { return std::get_if<Object>(&value_); }

  // Null where there is none, or this is no object.
  const Json* Find(std::string_view key) const;
  // Makes it an object's member, in the place of one of this key or behind the others.
  void Set(std::string_view key, Json value);

 private:
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, List, Object> value_;
};

struct JsonMember {
  std::string key;
  Json value;
};

// DataLoss saying what is wrong, without a path: no JSON (and where), a key twice in one object,
// nested deeper than 64. Whole numbers beyond 64 bits are numbers, no integers.
absl::StatusOr<Json> ParseJson(std::string_view text);

// The shortest digits, with a point or an exponent ("1.0", "1e-05"), that are read back as the same
// number and no integer; null where it is not finite.
std::string JsonReal(double value);

}  // namespace mneme
