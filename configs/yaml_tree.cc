#include "configs/yaml_tree.h"

#include <yaml-cpp/yaml.h>

namespace mneme {
namespace {

// Aliases may make a small text a huge tree, or one without an end.
constexpr int kMaxDepth = 32;
constexpr int kMaxNodes = 100'000;

class Converter {
 public:
  Converter(const Place& where, std::vector<Complaint>& complaints)
      : where_(where), complaints_(complaints) {}

  Tree Convert(const YAML::Node& node, const std::string& key, int depth) {
    Tree tree;
    tree.place = At(node.Mark());
    if (depth > kMaxDepth || ++nodes_ > kMaxNodes) {
      if (!too_much_) complaints_.push_back({tree.place, key, "nested too deeply or too large"});
      too_much_ = true;
      return tree;
    }
    if (node.IsScalar()) {
      tree.kind = Tree::Kind::kScalar;
      tree.scalar = node.Scalar();
    } else if (node.IsSequence()) {
      tree.kind = Tree::Kind::kList;
      for (const YAML::Node& element : node) {
        const std::string name = key + "." + std::to_string(tree.list.size());
        tree.list.push_back(Convert(element, name, depth + 1));
      }
    } else if (node.IsMap()) {
      tree.kind = Tree::Kind::kMap;
      for (const auto& pair : node) AddPair(tree, pair.first, pair.second, key, depth);
    }
    return tree;
  }

 private:
  Place At(const YAML::Mark& mark) const {
    Place place = where_;
    if (!mark.is_null() && where_.line >= 0) place.line = mark.line + 1;
    if (where_.line < 0) place.line = 0;
    return place;
  }

  void AddPair(Tree& tree, const YAML::Node& name, const YAML::Node& value, const std::string& key,
               int depth) {
    if (!name.IsScalar()) {
      complaints_.push_back({At(name.Mark()), key, "a key must be one word"});
      return;
    }
    const std::string dotted = key.empty() ? name.Scalar() : key + "." + name.Scalar();
    if (const Tree* first = tree.Find(name.Scalar()); first != nullptr) {
      complaints_.push_back({At(name.Mark()), dotted,
                             "stands twice; first in line " + std::to_string(first->place.line)});
      return;
    }
    Tree child = Convert(value, dotted, depth + 1);
    child.place = At(name.Mark());
    tree.map.emplace_back(name.Scalar(), std::move(child));
  }

  const Place& where_;
  std::vector<Complaint>& complaints_;
  int nodes_ = 0;
  bool too_much_ = false;
};

}  // namespace

Tree Tree::Empty(Kind kind, const Place& place) {
  Tree tree;
  tree.kind = kind;
  tree.place = place;
  return tree;
}

Tree* Tree::Find(const std::string& key) {
  for (auto& [name, child] : map) {
    if (name == key) return &child;
  }
  return nullptr;
}

Tree ParseYaml(const std::string& text, const Place& where, std::vector<Complaint>& complaints) {
  if (text.find('\0') != std::string::npos) {
    // yaml-cpp would stop there in silence.
    Place place = where;
    if (place.line < 0) place.line = 0;
    complaints.push_back({place, "", "holds a zero byte; is this a text file?"});
    return Tree::Empty(Tree::Kind::kNull, where);
  }
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      Place place = where;
      if (place.line >= 0) place.line = documents[1].Mark().line + 1;
      complaints.push_back({place, "", "a second document begins here; one file is one document"});
    }
    if (documents.empty()) return Tree::Empty(Tree::Kind::kNull, where);
    return Converter(where, complaints).Convert(documents[0], "", 0);
  } catch (const YAML::Exception& error) {
    Place place = where;
    if (place.line >= 0 && !error.mark.is_null()) place.line = error.mark.line + 1;
    if (place.line < 0) place.line = 0;
    complaints.push_back({place, "", "not YAML: " + error.msg});
  }
  return Tree::Empty(Tree::Kind::kNull, where);
}

}  // namespace mneme
