// A config as a tree of named fields: one Visit of the structs, turned into data that the reader,
// the writer, the schema, the comparison and the rules walk without templates.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <variant>
#include <vector>

#include "configs/run.h"

namespace mneme {

struct Field;

// A nested struct: its fields in the order of its Visit, which is that of files and documents.
struct Section {
  std::vector<Field> fields;
};

// A list of structs: `at(i)` reflects element i as it is now.
struct SectionList {
  std::function<int64_t()> size;
  std::function<void(int64_t)> resize;  // new elements are default-made; reflect anew after it
  std::function<Section(int64_t)> at;
  Section prototype;  // of a default-made element: names and sentences only; its pointers dangle
};

using Target = std::variant<int64_t*, double*, bool*, std::string*, std::vector<int64_t>*,
                            std::vector<double>*, std::vector<std::string>*, Section, SectionList>;

struct Field {
  std::string key;   // of this level: "heads"
  Target target;     // points into the struct that was reflected, which must outlive the tree
  std::string help;  // the sentence of the schema
  std::vector<std::string> choices;  // words that are legal; empty: any
  bool is_path = false;              // the reader resolves it against the file that names it
};

// "whole number", "number", "true or false", "text", "path", "list of ...", "section", "list of
// sections".
std::string TypeName(const Field& field);
// The value as YAML that the reader reads back to the same value; lists in flow style. Not for
// sections.
std::string ValueText(const Field& field);
// A string as YAML: plain where that is safe, else double-quoted.
std::string QuotedIfNeeded(const std::string& text);

// Collects the fields of one struct: the V of every config's Visit. `key`, `help` and choices are
// string literals; Path is for texts that are resolved as paths.
class Reflector {
 public:
  template <class T>
  void operator()(const char* key, T& value, const char* help,
                  std::initializer_list<const char*> choices = {}) {
    Add(key, Reflect(value), help, choices, false);
  }
  template <class T>
  void Path(const char* key, T& value, const char* help) {
    Add(key, &value, help, {}, true);
  }
  // REQUIRES: `config` outlives the section.
  template <class S>
  static Section Of(S& config) {
    Reflector reflector;
    config.Visit(reflector);
    return std::move(reflector.section_);
  }

 private:
  void Add(const char* key, Target target, const char* help,
           std::initializer_list<const char*> choices, bool is_path);

  static Target Reflect(int64_t& value) { return &value; }
  static Target Reflect(double& value) { return &value; }
  static Target Reflect(bool& value) { return &value; }
  static Target Reflect(std::string& value) { return &value; }
  static Target Reflect(std::vector<int64_t>& value) { return &value; }
  static Target Reflect(std::vector<double>& value) { return &value; }
  static Target Reflect(std::vector<std::string>& value) { return &value; }
  template <class S>
  static Target Reflect(S& value) {
    return Of(value);
  }
  template <class S>
  static Target Reflect(std::vector<S>& value) {
    S element;
    return SectionList{[&value] { return static_cast<int64_t>(value.size()); },
                       [&value](int64_t n) { value.resize(static_cast<size_t>(n)); },
                       [&value](int64_t i) { return Of(value[static_cast<size_t>(i)]); },
                       Of(element)};
  }

  Section section_;
};

}  // namespace mneme
