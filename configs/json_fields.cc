#include "configs/json_fields.h"

#include <utility>

#include "configs/json_text.h"

namespace mneme {
namespace {

constexpr size_t kMostFaults = 100;
constexpr size_t kLongestShown = 100;

}  // namespace

std::string ShowJson(const Json& value) {
  const std::string text = JsonText(value);
  if (text.size() <= kLongestShown) return text;
  return CleanUtf8(text.substr(0, kLongestShown)) + " ...";
}

const Json* JsonFields::Find(std::string_view key) const {
  const Json* value = json_->Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void JsonFields::Fault(std::string_view key, const std::string& what) {
  if (faults_->size() < kMostFaults)
    faults_->push_back(where_ + ShownKey(std::string(key)) + ": " + what);
}

const Json* JsonFields::Need(std::string_view key, bool required) {
  const Json* value = Find(key);
  if (value == nullptr && required) Fault(key, "is missing");
  return value;
}

void JsonFields::WrongKind(std::string_view key, const Json& value, const std::string& wanted) {
  Fault(key, "is " + ShowJson(value) + ", not " + wanted);
}

int64_t JsonFields::Integer(std::string_view key, std::optional<int64_t> otherwise) {
  const Json* value = Need(key, !otherwise.has_value());
  if (value != nullptr && value->integer() != nullptr) return *value->integer();
  if (value != nullptr) WrongKind(key, *value, "a whole number of 64 bits");
  return otherwise.value_or(0);
}

double JsonFields::Number(std::string_view key, std::optional<double> otherwise) {
  const Json* value = Need(key, !otherwise.has_value());
  if (value != nullptr && value->number().has_value()) return *value->number();
  if (value != nullptr) WrongKind(key, *value, "a number");
  return otherwise.value_or(0.0);
}

bool JsonFields::Flag(std::string_view key, std::optional<bool> otherwise) {
  const Json* value = Need(key, !otherwise.has_value());
  if (value != nullptr && value->truth() != nullptr) return *value->truth();
  if (value != nullptr) WrongKind(key, *value, "true or false");
  return otherwise.value_or(false);
}

std::string JsonFields::Text(std::string_view key, std::optional<std::string> otherwise) {
  const Json* value = Need(key, !otherwise.has_value());
  if (value != nullptr && value->text() != nullptr) return *value->text();
  if (value != nullptr) WrongKind(key, *value, "a text");
  return otherwise.value_or("");
}

const Json::List& JsonFields::ListOf(std::string_view key) {
  static const Json::List empty;
  const Json* value = Need(key, true);
  if (value != nullptr && value->list() != nullptr) return *value->list();
  if (value != nullptr) WrongKind(key, *value, "a list");
  return empty;
}

std::vector<double> JsonFields::Numbers(std::string_view key) {
  std::vector<double> numbers;
  for (const Json& item : ListOf(key)) {
    if (!item.number().has_value()) {
      WrongKind(key, item, "a number");
      break;
    }
    numbers.push_back(*item.number());
  }
  return numbers;
}

std::vector<int64_t> JsonFields::Integers(std::string_view key, size_t count) {
  std::vector<int64_t> integers;
  const Json::List& items = ListOf(key);
  for (const Json& item : items) {
    if (items.size() == count && item.integer() != nullptr) integers.push_back(*item.integer());
  }
  if (integers.size() != count && Find(key) != nullptr && Find(key)->list() != nullptr) {
    WrongKind(key, *Find(key), "a list of " + std::to_string(count) + " whole numbers");
  }
  integers.resize(count);
  return integers;
}

JsonFields JsonFields::Under(const std::string& name, const Json& value) {
  if (value.object() == nullptr) WrongKind(name, value, "an object");
  return {value, where_ + ShownKey(name) + ".", *faults_};
}

JsonFields JsonFields::Fields(std::string_view key) {
  static const Json nothing = Json::Object();
  const Json* value = Need(key, true);
  return Under(std::string(key), value == nullptr ? nothing : *value);
}

std::vector<JsonFields> JsonFields::FieldsOfEach(std::string_view key) {
  std::vector<JsonFields> all;
  for (const Json& item : ListOf(key)) {
    all.push_back(Under(std::string(key) + "[" + std::to_string(all.size()) + "]", item));
  }
  return all;
}

std::vector<std::pair<std::string, JsonFields>> JsonFields::FieldsByKey(std::string_view key) {
  std::vector<std::pair<std::string, JsonFields>> all;
  JsonFields parent = Fields(key);
  if (parent.json_->object() == nullptr) return all;
  for (const auto& [name, value] : *parent.json_->object()) {
    all.emplace_back(name, parent.Under(name, value));
  }
  return all;
}

}  // namespace mneme
