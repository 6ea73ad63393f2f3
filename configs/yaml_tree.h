// YAML text -> a plain tree that remembers where everything stood. yaml_tree.cc is the only file
// that knows yaml-cpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace mneme {

// Where something was said. `file` is a path or "command line"; line 0 where there are no lines.
struct Place {
  std::string file;
  int line = 0;
  std::string folder;  // relative paths start here

  // "file:line", or "command line".
  std::string Text() const { return line > 0 ? file + ":" + std::to_string(line) : file; }
};

struct Tree {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string scalar;
  std::vector<Tree> list;
  std::vector<std::pair<std::string, Tree>> map;  // in the file's order; no key twice
  Place place;

  static Tree Empty(Kind kind, const Place& place);
  Tree* Find(const std::string& key);
};

// A complaint: a line of the final message.
struct Complaint {
  Place place;
  std::string key;  // dotted; may be empty
  std::string what;

  std::string Text() const { return place.Text() + ": " + (key.empty() ? "" : key + ": ") + what; }
};

// One document. Syntax errors, duplicate keys, keys that are no words, more than one document:
// complaints.
Tree ParseYaml(const std::string& text, const Place& where, std::vector<Complaint>& complaints);

}  // namespace mneme
