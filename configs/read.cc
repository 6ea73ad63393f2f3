#include "configs/read.h"

#include <algorithm>
#include <limits>

#include "configs/text.h"

namespace mneme {
namespace {

// A file of other things has many unknown keys: so many are named.
constexpr size_t kMostUnknown = 30;
constexpr size_t kLongestComplaint = 1000;  // of what a file says, a message shows so much

void CollectKeys(const Section& section, const std::string& prefix,
                 std::vector<std::string>& keys) {
  for (const Field& field : section.fields) {
    keys.push_back(prefix + field.key);
    if (const auto* inner = std::get_if<Section>(&field.target)) {
      CollectKeys(*inner, prefix + field.key + ".", keys);
    }
  }
}

std::string LastPart(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? key : key.substr(dot + 1);
}

// A sibling with few edits, else the same word elsewhere, else the nearest dotted key of all.
std::string NearestKey(const Section& section, const std::string& prefix, const std::string& word) {
  std::vector<std::string> siblings;
  for (const Field& field : section.fields) siblings.push_back(field.key);
  const std::string sibling = Nearest(word, siblings);
  const int64_t few =
      std::max<int64_t>(1, std::min<int64_t>(3, static_cast<int64_t>(word.size()) / 2));
  if (EditDistance(word, sibling) <= few) return prefix + sibling;
  RunConfig defaults;
  std::vector<std::string> all;
  CollectKeys(Reflector::Of(defaults), "", all);
  // A run's file where another kind of file is read: its keys are known, but not here.
  if (std::find(all.begin(), all.end(), prefix + word) != all.end()) return prefix + sibling;
  std::string best;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (const std::string& key : all) {
    const int64_t edits =
        std::min(2 * EditDistance(word, LastPart(key)), EditDistance(prefix + word, key));
    if (edits < fewest) {
      fewest = edits;
      best = key;
    }
  }
  return fewest < 2 * EditDistance(word, sibling) ? best : prefix + sibling;
}

const char* KindName(Tree::Kind kind) {
  switch (kind) {
    case Tree::Kind::kNull:
      return "nothing";
    case Tree::Kind::kScalar:
      return "a value";
    case Tree::Kind::kList:
      return "a list";
    case Tree::Kind::kMap:
      return "a section";
  }
  return "";
}

// Reads one field.
class FieldReader {
 public:
  FieldReader(const Field& field, const Tree& tree, const std::string& key,
              std::map<std::string, std::string>& places, std::vector<Complaint>& complaints)
      : field_(field), tree_(tree), key_(key), places_(places), complaints_(complaints) {}

  void operator()(const Section& section) {
    if (tree_.kind == Tree::Kind::kNull) return;
    if (tree_.kind != Tree::Kind::kMap) return Wrong(tree_);
    ReadSection(section, tree_, key_ + ".", "", places_, complaints_);
  }

  void operator()(const SectionList& sections) {
    if (tree_.kind != Tree::Kind::kList) return Wrong(tree_);
    sections.resize(0);
    sections.resize(static_cast<int64_t>(tree_.list.size()));
    for (size_t i = 0; i < tree_.list.size(); ++i) {
      const Tree& element = tree_.list[i];
      const std::string key = key_ + "." + std::to_string(i);
      if (element.kind != Tree::Kind::kMap) {
        complaints_.push_back({element.place, key,
                               "expects a section, found " + std::string(KindName(element.kind))});
        continue;
      }
      ReadSection(sections.at(static_cast<int64_t>(i)), element, key + ".", "", places_,
                  complaints_);
    }
  }

  template <class T>
  void operator()(std::vector<T>* values) {
    if (tree_.kind == Tree::Kind::kScalar) {
      T value{};
      if (Scalar(tree_, value)) *values = {value};
      return;
    }
    if (tree_.kind != Tree::Kind::kList) return Wrong(tree_);
    std::vector<T> read;
    bool good = true;
    for (const Tree& element : tree_.list) {
      T value{};
      good = Scalar(element, value) && good;
      read.push_back(value);
    }
    if (good) *values = read;
  }

  template <class T>
  void operator()(T* value) {
    Scalar(tree_, *value);
  }

 private:
  void Complain(const Place& place, const std::string& what) {
    const bool whole = what.size() <= kLongestComplaint;
    complaints_.push_back({place, key_, whole ? what : what.substr(0, kLongestComplaint) + " ..."});
  }

  void Wrong(const Tree& tree) {
    std::string what =
        "expects " + std::string(TypeName(field_)[0] == 't' ? "" : "a ") + TypeName(field_);
    what += ", found " +
            (tree.kind == Tree::Kind::kScalar ? "'" + tree.scalar + "'" : KindName(tree.kind));
    if (tree.kind == Tree::Kind::kNull && TypeName(field_).rfind("list", 0) == 0)
      what += "; [] is an empty list";
    Complain(tree.place, what);
  }

  bool Scalar(const Tree& tree, int64_t& value) {
    if (tree.kind != Tree::Kind::kScalar) return Wrong(tree), false;
    std::string why;
    const std::optional<int64_t> parsed = ParseInteger(tree.scalar, &why);
    if (!parsed) return Complain(tree.place, why), false;
    value = *parsed;
    return true;
  }

  bool Scalar(const Tree& tree, double& value) {
    if (tree.kind != Tree::Kind::kScalar) return Wrong(tree), false;
    const std::optional<double> parsed = ParseNumber(tree.scalar);
    if (!parsed) return Complain(tree.place, "'" + tree.scalar + "' is not a finite number"), false;
    value = *parsed;
    return true;
  }

  bool Scalar(const Tree& tree, bool& value) {
    if (tree.kind != Tree::Kind::kScalar) return Wrong(tree), false;
    if (tree.scalar != "true" && tree.scalar != "false") {
      return Complain(tree.place, "'" + tree.scalar + "' is neither true nor false"), false;
    }
    value = tree.scalar == "true";
    return true;
  }

  bool Scalar(const Tree& tree, std::string& value) {
    if (tree.kind != Tree::Kind::kScalar) return Wrong(tree), false;
    if (field_.is_path && !tree.scalar.empty()) {
      std::string why;
      const std::optional<std::string> path = ResolvePath(tree.scalar, tree.place.folder, &why);
      if (!path) return Complain(tree.place, why), false;
      value = *path;
      return true;
    }
    const auto& choices = field_.choices;
    if (!choices.empty() &&
        std::find(choices.begin(), choices.end(), tree.scalar) == choices.end()) {
      Complain(tree.place, "'" + tree.scalar + "' is not one of " + Join(choices, ", ") +
                               "; nearest: " + Nearest(tree.scalar, choices));
      return false;
    }
    value = tree.scalar;
    return true;
  }

  const Field& field_;
  const Tree& tree_;
  const std::string& key_;
  std::map<std::string, std::string>& places_;
  std::vector<Complaint>& complaints_;
};

}  // namespace

void ReadSection(const Section& section, const Tree& tree, const std::string& prefix,
                 const std::string& skip, std::map<std::string, std::string>& places,
                 std::vector<Complaint>& complaints) {
  for (const auto& [word, child] : tree.map) {
    const std::string key = prefix + word;
    const auto found = std::find_if(section.fields.begin(), section.fields.end(),
                                    [&, &name = word](const Field& f) { return f.key == name; });
    if (found == section.fields.end()) {
      if (complaints.size() >= kMostUnknown) {
        complaints.push_back({child.place, "", "more unknown keys from here on"});
        return;
      }
      std::string what = "unknown key; nearest: " + NearestKey(section, prefix, word);
      if (word.find('.') != std::string::npos)
        what += " (dotted keys are for the command line; files nest)";
      complaints.push_back({child.place, key, what});
      continue;
    }
    places[key] = child.place.Text();
    if (word == skip) continue;
    std::visit(FieldReader(*found, child, key, places, complaints), found->target);
  }
}

}  // namespace mneme
