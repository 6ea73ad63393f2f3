#include "configs/json.h"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "configs/json_text.h"

namespace mneme {
namespace {

constexpr size_t kDeepest = 64;
constexpr size_t kFewKeys = 16;         // of an object: looked through one by one
constexpr size_t kLongestReason = 200;  // the parser repeats what it read last, whatever its size

// What the parser says of `text`, "[json.exception.parse_error.101] parse error at line 1, column
// 5: ...", from "line" on, or from "column" on where the text is a line. It does not say where a
// number is too large: `at` bytes were read.
std::string Reason(const std::string& message, std::string_view text, size_t at) {
  std::string_view reason = message;
  const auto skip = [&](std::string_view lead) {
    if (reason.starts_with(lead)) reason.remove_prefix(lead.size());
  };
  reason.remove_prefix(reason.find("] ") + 1);
  skip(" ");
  const bool placed = reason.starts_with("parse error at ");
  skip("parse error at ");
  if (text.find('\n') >= text.size() - 1) skip("line 1, ");
  const std::string shown = CleanUtf8(std::string(reason.substr(0, kLongestReason)));
  const std::string place = placed ? "" : "byte " + std::to_string(at) + ": ";
  return place + (reason.size() > kLongestReason ? shown + " ..." : shown);
}

// Builds the value event by event; a place is where the next one goes. Without recursion: what
// nests without end ends at the limit.
class ValueReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ValueReader(std::string_view text) : text_(text) {}

  Json root;
  std::string fault;

  bool null() override { return Put(Json()); }
  bool boolean(bool value) override { return Put(Json(value)); }
  bool number_integer(number_integer_t value) override { return Put(Json(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) {
      return Put(Json(static_cast<double>(value)));
    }
    return Put(Json(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t&) override { return Put(Json(value)); }
  bool string(string_t& text) override { return Put(Json(text)); }
  bool binary(binary_t&) override { return Fail("holds binary data"); }
  bool start_object(size_t) override { return Open(Json(Json::Object())); }
  bool start_array(size_t) override { return Open(Json(Json::List())); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (!IsNew(name)) return Fail("'" + ShownKey(name) + "' is there twice");
    open_.back().value->object()->push_back({name, Json()});
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception& why) override {
    return Fail("is not JSON: " + Reason(why.what(), text_, at));
  }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;  // where they are many: an index has 90,000
  };

  bool IsNew(const std::string& name) {
    const Json::Object& members = *open_.back().value->object();
    std::unordered_set<std::string>& keys = open_.back().keys;
    if (members.size() < kFewKeys) return open_.back().value->Find(name) == nullptr;
    if (keys.empty()) {
      for (const JsonMember& member : members) keys.insert(member.key);
    }
    return keys.insert(name).second;
  }
  Json& Place() {
    if (open_.empty()) return root;
    Json& parent = *open_.back().value;
    if (Json::Object* object = parent.object()) return object->back().value;
    return parent.list()->emplace_back();
  }
  bool Put(Json value) {
    Place() = std::move(value);
    return true;
  }
  // Pointers into parents stay valid: a parent does not grow while a child is open.
  bool Open(Json value) {
    if (open_.size() == kDeepest) {
      return Fail("is JSON nested deeper than " + std::to_string(kDeepest));
    }
    Json& place = Place();
    place = std::move(value);
    open_.push_back({&place, {}});
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }
  bool Fail(const std::string& what) {
    if (fault.empty()) fault = what;
    return false;
  }

  const std::string_view text_;
  std::vector<Level> open_;
};

}  // namespace

Json::Json() = default;
Json::Json(bool truth) : value_(truth) {}
Json::Json(int integer) : value_(int64_t{integer}) {}
Json::Json(int64_t integer) : value_(integer) {}
Json::Json(double number) : value_(number) {}
Json::Json(const char* text) : value_(std::string(text)) {}
Json::Json(std::string text) : value_(std::move(text)) {}
Json::Json(List list) : value_(std::move(list)) {}
Json::Json(Object object) : value_(std::move(object)) {}

std::optional<double> Json::number() const {
  if (const int64_t* whole = integer()) return static_cast<double>(*whole);
  if (const double* real = std::get_if<double>(&value_)) return *real;
  return std::nullopt;
}

const Json* Json::Find(std::string_view key) const {
  if (object() == nullptr) return nullptr;
  for (const auto& [name, value] : *object()) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Json::Set(std::string_view key, Json value) {
  if (object() == nullptr) value_ = Object();
  for (JsonMember& member : *object()) {
    if (member.key == key) {
      member.value = std::move(value);
      return;
    }
  }
  object()->push_back({std::string(key), std::move(value)});
}

absl::StatusOr<Json> ParseJson(std::string_view text) {
  // The parser takes a zero byte for the end, and what is behind it for nothing.
  if (const size_t zero = text.find('\0'); zero != text.npos) {
    return absl::DataLossError("is not JSON: byte " + std::to_string(zero + 1) + " is zero");
  }
  ValueReader reader(text);
  if (nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) return std::move(reader.root);
  return absl::DataLossError(reader.fault.empty() ? "is not JSON" : reader.fault);
}

std::string JsonReal(double value) { return nlohmann::json(value).dump(); }

}  // namespace mneme
