// JSON from anywhere (config.json, index files) as a plain value. Pure; never throws.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

struct JsonMember;

struct JsonTree {
  enum class Kind { kNull, kBool, kInteger, kNumber, kText, kList, kObject };
  Kind kind = Kind::kNull;
  bool truth = false;
  int64_t integer = 0;
  double number = 0.0;  // of integers too
  std::string text;
  std::vector<JsonTree> items;      // of a list
  std::vector<JsonMember> members;  // of an object, in their order

  bool is_null() const { return kind == Kind::kNull; }
  bool is_number() const { return kind == Kind::kInteger || kind == Kind::kNumber; }
  const JsonTree* Find(std::string_view key) const;  // null where there is none
};

struct JsonMember {
  std::string key;
  JsonTree value;
};

// DataLoss naming `path`: not JSON, a key twice in one object, nested deeper than 64, integers
// beyond 64 bits.
absl::StatusOr<JsonTree> ParseJson(std::string_view text, const std::string& path);
// The same of a file, of at most 100 MB.
absl::StatusOr<JsonTree> ReadJson(const std::string& path);

// One line of JSON that says the same: for messages.
std::string ShowJson(const JsonTree& tree);

}  // namespace mneme
