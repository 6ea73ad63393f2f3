#include "configs/fields.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <utility>

#include "configs/text.h"

namespace mneme {
namespace {

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};

bool IsPlain(const std::string& text) {
  static constexpr std::array<const char*, 14> kWords = {
      "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "Nan", "Inf", ""};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (std::find(kWords.begin(), kWords.end(), lower) != kWords.end()) return false;
  const auto safe = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '/' || c == '.' || c == '-';
  };
  const unsigned char first = static_cast<unsigned char>(text[0]);
  return (std::isalpha(first) != 0 || first == '_' || first == '/') &&
         std::all_of(text.begin(), text.end(), safe);
}

template <class T, class F>
std::string FlowList(const std::vector<T>& values, F&& text) {
  std::vector<std::string> words;
  for (const T& value : values) words.push_back(text(value));
  return "[" + Join(words, ", ") + "]";
}

}  // namespace

std::string QuotedIfNeeded(const std::string& text) {
  if (IsPlain(text)) return text;
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escape;
      std::snprintf(escape.data(), escape.size(), "\\x%02x", byte);
      out += escape.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string TypeName(const Field& field) {
  const std::string text = field.is_path ? "path" : "text";
  return std::visit(
      Overloaded{[](int64_t*) -> std::string { return "whole number"; },
                 [](double*) -> std::string { return "number"; },
                 [](bool*) -> std::string { return "true or false"; },
                 [&](std::string*) -> std::string { return text; },
                 [](std::vector<int64_t>*) -> std::string { return "list of whole numbers"; },
                 [](std::vector<double>*) -> std::string { return "list of numbers"; },
                 [&](std::vector<std::string>*) -> std::string {
                   return field.is_path ? "list of paths" : "list of texts";
                 },
                 [](const Section&) -> std::string { return "section"; },
                 [](const SectionList&) -> std::string { return "list of sections"; }},
      field.target);
}

std::string ValueText(const Field& field) {
  return std::visit(
      Overloaded{[](int64_t* v) { return std::to_string(*v); },
                 [](double* v) { return NumberText(*v); },
                 [](bool* v) { return std::string(*v ? "true" : "false"); },
                 [](std::string* v) { return QuotedIfNeeded(*v); },
                 [](std::vector<int64_t>* v) {
                   return FlowList(*v, [](int64_t x) { return std::to_string(x); });
                 },
                 [](std::vector<double>* v) { return FlowList(*v, NumberText); },
                 [](std::vector<std::string>* v) { return FlowList(*v, QuotedIfNeeded); },
                 [](const Section&) { return std::string("{}"); },
                 [](const SectionList&) { return std::string("[]"); }},
      field.target);
}

void Reflector::Add(const char* key, Target target, const char* help,
                    std::initializer_list<const char*> choices, bool is_path) {
  Field field{key, std::move(target), help, {}, is_path};
  for (const char* choice : choices) field.choices.emplace_back(choice);
  section_.fields.push_back(std::move(field));
}

}  // namespace mneme
