// The members that an object of JSON must have, and may have, each with the reason where it is not
// as it should be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/json.h"

namespace mneme {

// A member is asked for by its key, as what it must be. Without `otherwise` it must be there; null
// is as if it were not. What is not so makes a fault, "slices[3].rows: is \"x\", not a whole number
// of 64 bits", and is `otherwise` or nothing: the caller reads all, then looks at the faults.
class JsonFields {
 public:
  // `where` goes before each key: "", or "position.". `json`, of which what is no object has no
  // members, and `faults` outlive it. Of faults the first hundred are kept.
  JsonFields(const Json& json, std::string where, std::vector<std::string>& faults)
      : json_(&json), where_(std::move(where)), faults_(&faults) {}

  const Json* Find(std::string_view key) const;  // null where there is none, or null
  void Fault(std::string_view key, const std::string& what);

  int64_t Integer(std::string_view key, std::optional<int64_t> otherwise = {});
  double Number(std::string_view key, std::optional<double> otherwise = {});
  bool Flag(std::string_view key, std::optional<bool> otherwise = {});
  std::string Text(std::string_view key, std::optional<std::string> otherwise = {});
  std::vector<double> Numbers(std::string_view key);
  std::vector<int64_t> Integers(std::string_view key, size_t count);  // always as many
  JsonFields Fields(std::string_view key);
  std::vector<JsonFields> FieldsOfEach(std::string_view key);  // of a list
  // Every member's key and its own members.
  std::vector<std::pair<std::string, JsonFields>> FieldsByKey(std::string_view key);

 private:
  // Null, with a fault where it is missed.
  const Json* Need(std::string_view key, bool required);
  // The list of a member; empty, with a fault, where it is none.
  const Json::List& ListOf(std::string_view key);
  // Of a value that must be an object, with a fault where it is none.
  JsonFields Under(const std::string& name, const Json& value);
  void WrongKind(std::string_view key, const Json& value, const std::string& wanted);

  const Json* json_;
  std::string where_;
  std::vector<std::string>* faults_;
};

// A value as a message shows it: its text, cut where it is long.
std::string ShowJson(const Json& value);

}  // namespace mneme
