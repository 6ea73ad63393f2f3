#include "parallel/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <vector>

namespace mneme {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

std::string FirstLine(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// A file of one number; kUnlimited where it is absent or says "max".
int64_t ReadLimit(const std::string& path) {
  std::istringstream in(FirstLine(path));
  uint64_t value = 0;
  if (!(in >> value)) return kUnlimited;
  return static_cast<int64_t>(std::min<uint64_t>(value, kUnlimited));
}

// The number after `key` in a file of "key number" lines; 0 where there is none.
int64_t ReadField(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string word;
  while (in >> word) {
    int64_t value = 0;
    if (word == key && in >> value) return value;
  }
  return 0;
}

// What one control group leaves. Its file cache counts as used there, but is given back on demand.
HostMemory OfGroup(const std::string& folder, const char* limit, const char* usage,
                   const char* cache) {
  const int64_t most = ReadLimit(folder + "/" + limit);
  const int64_t used = ReadLimit(folder + "/" + usage);
  if (most == kUnlimited || used == kUnlimited) return {kUnlimited, ""};
  const int64_t given_back = ReadField(folder + "/memory.stat", cache);
  return {std::max<int64_t>(0, most - std::max<int64_t>(0, used - given_back)),
          folder + "/" + limit};
}

// The group of this process in hierarchy `wanted` ("" is version 2), as a path from the mount.
std::string GroupPath(const std::string& root, const std::string& wanted) {
  std::ifstream in(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {  // number:controllers:path
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    if (line.substr(first + 1, second - first - 1) == wanted) return line.substr(second + 1);
  }
  return "/";
}

}  // namespace

HostMemory ReadHostMemory(const std::string& root) {
  HostMemory least{ReadField(root + "/proc/meminfo", "MemAvailable:") * 1024, "/proc/meminfo"};
  if (least.available == 0) least.available = kUnlimited;
  // From the group of this process up to the mount, in both versions of the hierarchy.
  struct Hierarchy {
    const char *name, *mount, *limit, *usage, *cache;
  };
  for (const Hierarchy& h :
       {Hierarchy{"", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"},
        Hierarchy{"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                  "memory.usage_in_bytes", "total_inactive_file"}}) {
    std::string path = GroupPath(root, h.name);
    while (true) {
      const std::string folder = root + h.mount + (path == "/" ? "" : path);
      const HostMemory group = OfGroup(folder, h.limit, h.usage, h.cache);
      if (group.available < least.available) least = group;
      if (path.empty() || path == "/") break;
      path.resize(path.find_last_of('/'));
    }
  }
  return least;
}

}  // namespace mneme
