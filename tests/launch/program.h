// The program as a user runs it: a folder to work in, a command line, what came out.
#pragma once

#include <string>
#include <vector>

namespace mneme {

struct Ran {
  int code = -1;
  std::string out;
  std::string err;
};

// An empty current folder for commands; removed at the end.
class Workplace {
 public:
  Workplace();
  ~Workplace();
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  // `mneme ARGUMENTS`, as a shell would read them; `before` stands before the program's name.
  Ran Run(const std::string& arguments, const std::string& before = "") const;
  void Write(const std::string& name, const std::string& text) const;
  std::string Read(const std::string& name) const;
  // Paths of all files, relative and sorted.
  std::vector<std::string> Files() const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// How often `part` stands in `text`.
int Count(const std::string& text, const std::string& part);

}  // namespace mneme
