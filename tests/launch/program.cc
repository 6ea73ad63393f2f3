#include "tests/launch/program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace mneme {
namespace {

namespace fs = std::filesystem;

std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

Workplace::Workplace() {
  std::string pattern = (fs::temp_directory_path() / "mneme_launch_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  path_ = pattern;
}

Workplace::~Workplace() {
  fs::remove_all(path_);
  fs::remove(path_ + ".out");
  fs::remove(path_ + ".err");
}

Ran Workplace::Run(const std::string& arguments, const std::string& before) const {
  const std::string command = "cd '" + path_ + "' && " + before + " '" MNEME_PROGRAM "' " +
                              arguments + " >'" + path_ + ".out' 2>'" + path_ + ".err' </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Slurp(path_ + ".out"),
          Slurp(path_ + ".err")};
}

void Workplace::Write(const std::string& name, const std::string& text) const {
  const fs::path path = fs::path(path_) / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string Workplace::Read(const std::string& name) const { return Slurp(path_ + "/" + name); }

std::vector<std::string> Workplace::Files() const {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path_)) {
    if (!entry.is_directory()) files.push_back(fs::relative(entry.path(), path_).string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++count;
  return count;
}

}  // namespace mneme
