#include "data/json_depth.h"

#include <cstddef>

namespace mneme {
namespace {

constexpr int kDeepest = 64;

}  // namespace

bool IsShallowJson(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if ((c == '[' || c == '{') && ++depth > kDeepest) return false;
    if (c == ']' || c == '}') --depth;
  }
  return true;
}

}  // namespace mneme
