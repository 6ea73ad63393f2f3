#include "engine/convert/json_tree.h"

#include <nlohmann/json.hpp>
#include <unordered_set>

#include "data/files.h"
#include "engine/json.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr size_t kDeepest = 64;
constexpr int64_t kMostBytes = 100'000'000;

// Builds the tree event by event; a place is where the next value goes.
class TreeReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonTree root;
  std::string fault;

  bool null() override { return Put({}); }
  bool boolean(bool value) override {
    JsonTree tree;
    tree.kind = JsonTree::Kind::kBool;
    tree.truth = value;
    return Put(std::move(tree));
  }
  bool number_integer(number_integer_t value) override { return PutInteger(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return Fail("a number is beyond 2^63");
    return PutInteger(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override {
    JsonTree tree;
    tree.kind = JsonTree::Kind::kNumber;
    tree.number = value;
    return Put(std::move(tree));
  }
  bool string(string_t& text) override {
    JsonTree tree;
    tree.kind = JsonTree::Kind::kText;
    tree.text = text;
    return Put(std::move(tree));
  }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool start_object(size_t) override { return Open(JsonTree::Kind::kObject); }
  bool start_array(size_t) override { return Open(JsonTree::Kind::kList); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    JsonTree& object = *open_.back();
    if (!keys_.back().insert(name).second) {
      return Fail("'" + name.substr(0, 200) + "' is there twice");
    }
    object.members.push_back({name, JsonTree()});
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
    return Fail("not JSON (byte " + std::to_string(at) + ")");
  }

 private:
  bool PutInteger(int64_t value) {
    JsonTree tree;
    tree.kind = JsonTree::Kind::kInteger;
    tree.integer = value;
    tree.number = static_cast<double>(value);
    return Put(std::move(tree));
  }
  JsonTree& Place() {
    if (open_.empty()) return root;
    JsonTree& parent = *open_.back();
    if (parent.kind == JsonTree::Kind::kObject) return parent.members.back().value;
    return parent.items.emplace_back();
  }
  bool Put(JsonTree tree) {
    Place() = std::move(tree);
    return true;
  }
  // Pointers into parents stay valid: a parent does not grow while a child is open.
  bool Open(JsonTree::Kind kind) {
    if (open_.size() == kDeepest) return Fail("nested deeper than " + std::to_string(kDeepest));
    JsonTree& place = Place();
    place.kind = kind;
    open_.push_back(&place);
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }
  bool Fail(const std::string& what) {
    if (fault.empty()) fault = what;
    return false;
  }

  std::vector<JsonTree*> open_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each: an index has 90,000
};

}  // namespace

const JsonTree* JsonTree::Find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<JsonTree> ParseJson(std::string_view text, const std::string& path) {
  TreeReader reader;
  if (nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) return std::move(reader.root);
  return absl::DataLossError(path + ": " + (reader.fault.empty() ? "not JSON" : reader.fault));
}

absl::StatusOr<JsonTree> ReadJson(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  if (bytes > kMostBytes) {
    return absl::DataLossError(path + ": has " + std::to_string(bytes) +
                               " bytes, more than any such file has");
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path));
  return ParseJson(text, path);
}

std::string ShowJson(const JsonTree& tree) {
  switch (tree.kind) {
    case JsonTree::Kind::kNull:
      return "null";
    case JsonTree::Kind::kBool:
      return tree.truth ? "true" : "false";
    case JsonTree::Kind::kInteger:
      return std::to_string(tree.integer);
    case JsonTree::Kind::kNumber:
      return JsonNumber(tree.number);
    case JsonTree::Kind::kText:
      return JsonString(tree.text);
    case JsonTree::Kind::kList: {
      std::vector<std::string> items;
      for (const JsonTree& item : tree.items) items.push_back(ShowJson(item));
      return JsonArray(items);
    }
    case JsonTree::Kind::kObject: {
      JsonObject object;
      for (const auto& [key, value] : tree.members) object.AddRaw(key, ShowJson(value));
      return object.Text();
    }
  }
  return "";
}

}  // namespace mneme
