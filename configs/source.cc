#include "configs/source.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "configs/text.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

Place CommandLine() { return {"command line", -1, CurrentFolder()}; }

// "; nearest: x.yaml" of the files beside a missing one.
std::string NearestFile(const fs::path& path) {
  std::vector<std::string> names;
  std::error_code error;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".yaml") names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  const std::string nearest = Nearest(path.filename().string(), names);
  return nearest.empty() ? "" : "; nearest: " + (path.parent_path() / nearest).string();
}

class SourceReader {
 public:
  explicit SourceReader(std::vector<Complaint>& complaints) : complaints_(complaints) {}

  // `named_at` is where the file was named: an include: line, or the command line.
  Tree Read(const std::string& path, const Place& named_at, const std::string& key) {
    std::error_code error;
    if (!fs::exists(path, error))
      return Fail(named_at, key, path + ": no such file" + NearestFile(path));
    if (fs::is_directory(path, error))
      return Fail(named_at, key, path + ": is a folder, not a file");
    // A pipe that nobody writes to would hang, a device need not end.
    if (!fs::is_regular_file(path, error))
      return Fail(named_at, key, path + ": is a pipe or a device, not a file");
    const std::string canonical = fs::weakly_canonical(path, error).string();
    if (std::find(open_.begin(), open_.end(), canonical) != open_.end()) {
      return Fail(named_at, key, path + ": includes itself, by way of " + Join(open_, " -> "));
    }
    std::ifstream in(path, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    if (!in) return Fail(named_at, key, path + ": cannot be read");
    const Place where{path, 0, fs::path(fs::absolute(path, error)).parent_path().string()};
    Tree own = ParseYaml(text.str(), where, complaints_);
    if (own.kind == Tree::Kind::kNull) own.kind = Tree::Kind::kMap;
    if (own.kind != Tree::Kind::kMap)
      return Fail(own.place, "", "a config is keys and values, not a list or a word");
    open_.push_back(canonical);
    Tree merged = Includes(own);
    open_.pop_back();
    MergeTree(merged, std::move(own));
    return merged;
  }

 private:
  Tree Fail(const Place& place, const std::string& key, const std::string& what) {
    complaints_.push_back({place, key, what});
    return Tree::Empty(Tree::Kind::kMap, place);
  }

  // Takes the include: key out of the tree and reads what it names.
  Tree Includes(Tree& own) {
    Tree merged = Tree::Empty(Tree::Kind::kMap, own.place);
    const auto found = std::find_if(own.map.begin(), own.map.end(),
                                    [](const auto& pair) { return pair.first == "include"; });
    if (found == own.map.end()) return merged;
    const Tree include = std::move(found->second);
    own.map.erase(found);
    std::vector<Tree> files = include.list;
    if (include.kind == Tree::Kind::kScalar) files = {include};
    if (files.empty()) complaints_.push_back({include.place, "include", "names no file"});
    for (const Tree& file : files) {
      std::string why;
      if (file.kind != Tree::Kind::kScalar) {
        complaints_.push_back({file.place, "include", "expects a path, or a list of paths"});
      } else if (auto path = ResolvePath(file.scalar, file.place.folder, &why); !path) {
        complaints_.push_back({file.place, "include", why});
      } else {
        MergeTree(merged, Read(Shortest(*path), file.place, "include"));
      }
    }
    return merged;
  }

  // Relative to the current folder where that is inside it: messages stay readable.
  static std::string Shortest(const std::string& path) {
    const std::string relative = fs::path(path).lexically_relative(CurrentFolder()).string();
    return relative.empty() || relative.rfind("..", 0) == 0 ? path : relative;
  }

  std::vector<Complaint>& complaints_;
  std::vector<std::string> open_;
};

std::vector<std::string> SplitDots(const std::string& key) {
  std::vector<std::string> parts(1);
  for (const char c : key) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// The child of `tree` that a part of a dotted key names, made if it is missing; null with a reason
// if it cannot be.
Tree* Descend(Tree& tree, const std::string& part, std::string& why) {
  if (tree.kind == Tree::Kind::kList) {
    size_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    if (error != std::errc{} || end != part.data() + part.size() || index >= tree.list.size()) {
      why = "'" + part + "' is no element: the list has " + std::to_string(tree.list.size()) +
            ", counted from 0";
      return nullptr;
    }
    return &tree.list[index];
  }
  if (tree.kind != Tree::Kind::kMap) tree = Tree::Empty(Tree::Kind::kMap, CommandLine());
  if (Tree* child = tree.Find(part)) return child;
  tree.map.emplace_back(part, Tree::Empty(Tree::Kind::kNull, CommandLine()));
  return &tree.map.back().second;
}

void ApplyOverride(Tree& root, const std::string& text, std::vector<Complaint>& complaints) {
  const std::string bare = text.rfind("--", 0) == 0 ? text.substr(2) : text;
  const size_t equals = bare.find('=');
  if (equals == std::string::npos || equals == 0) {
    complaints.push_back({CommandLine(), "", "'" + text + "' is neither an option nor key=value"});
    return;
  }
  const std::string key = bare.substr(0, equals);
  const std::string value_text = bare.substr(equals + 1);
  std::vector<Complaint> faults;
  Tree value = ParseYaml(value_text, CommandLine(), faults);
  if (value_text.empty()) value.kind = Tree::Kind::kScalar;
  if (!faults.empty()) {
    complaints.push_back({CommandLine(), key, "'" + value_text + "': " + faults[0].what});
    return;
  }
  Tree* at = &root;
  for (const std::string& part : SplitDots(key)) {
    std::string why;
    at = part.empty() ? nullptr : Descend(*at, part, why);
    if (at == nullptr) {
      complaints.push_back({CommandLine(), key, why.empty() ? "is not a dotted key" : why});
      return;
    }
  }
  MergeTree(*at, std::move(value));
}

}  // namespace

std::string CurrentFolder() {
  std::error_code error;
  return fs::current_path(error).string();
}

void MergeTree(Tree& to, Tree from) {
  if (to.kind != Tree::Kind::kMap || from.kind != Tree::Kind::kMap) {
    // An empty section says nothing and wipes nothing.
    if (to.kind == Tree::Kind::kMap && from.kind == Tree::Kind::kNull) return;
    to = std::move(from);
    return;
  }
  for (auto& [key, child] : from.map) {
    if (Tree* existing = to.Find(key)) {
      MergeTree(*existing, std::move(child));
    } else {
      to.map.emplace_back(key, std::move(child));
    }
  }
}

Tree ReadSources(const std::string& path, std::vector<Complaint>& complaints) {
  return SourceReader(complaints).Read(path, CommandLine(), "");
}

void ApplyOverrides(Tree& root, const std::vector<std::string>& overrides,
                    std::vector<Complaint>& complaints) {
  for (const std::string& text : overrides) ApplyOverride(root, text, complaints);
}

}  // namespace mneme
