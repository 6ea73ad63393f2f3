#include "data/canonical.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <unordered_map>
#include <vector>

namespace mneme {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

struct Free {
  void operator()(utf8proc_uint8_t* bytes) const { std::free(bytes); }
};

// NFKC or NFD of a whole string; false where it is not UTF-8.
bool Map(const std::string& text, int options, std::string* out) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &mapped, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, Free> owner(mapped);
  if (length < 0) return false;
  out->assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  return true;
}

// Unicode's White_Space property, which utf8proc does not carry (PropList.txt).
bool IsWhiteSpace(utf8proc_int32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsMark(utf8proc_int32_t c) {
  const utf8proc_category_t category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_ME;
}

bool IsPlainBlank(utf8proc_int32_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

void Append(utf8proc_int32_t c, std::string* out) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t length = utf8proc_encode_char(c, bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

// Code points without marks, lower-cased, runs of plain blanks made one space. `text` is UTF-8.
std::vector<utf8proc_int32_t> Fold(const std::string& text) {
  std::vector<utf8proc_int32_t> folded;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  bool in_blank = false;
  for (utf8proc_ssize_t at = 0; at < size;) {
    utf8proc_int32_t c = 0;
    at += utf8proc_iterate(bytes + at, size - at, &c);
    if (IsMark(c)) continue;
    const bool blank = IsPlainBlank(c);
    if (!blank) folded.push_back(utf8proc_tolower(c));
    if (blank && !in_blank) folded.push_back(' ');
    in_blank = blank;
  }
  return folded;
}

}  // namespace

std::string NormalizeToken(const std::string& text) {
  std::string composed;
  std::string decomposed;
  if (!Map(text, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, &composed) ||
      !Map(composed, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &decomposed)) {
    return text;
  }
  const std::vector<utf8proc_int32_t> folded = Fold(decomposed);
  if (folded.size() == 1 && folded[0] == ' ') return " ";
  size_t begin = 0;
  size_t end = folded.size();
  while (begin < end && IsWhiteSpace(folded[begin])) ++begin;
  while (begin < end && IsWhiteSpace(folded[end - 1])) --end;
  std::string key;
  // The sentinel of the published normaliser (U+E000 stands for a lone space) turns into a space
  // even where the text itself has it.
  for (size_t i = begin; i < end; ++i) Append(folded[i] == 0xE000 ? ' ' : folded[i], &key);
  return key;
}

CanonicalMap MakeCanonicalMap(absl::Span<const TokenText> tokens) {
  CanonicalMap map;
  std::unordered_map<std::string, int32_t> seen;
  map.ids.reserve(tokens.size());
  for (const TokenText& token : tokens) {
    const bool fragment = token.decoded.find(kReplacement) != std::string::npos;
    std::string key = fragment ? token.raw : NormalizeToken(token.decoded);
    if (key.empty()) key = token.decoded;
    const auto next = static_cast<int32_t>(seen.size());
    map.ids.push_back(seen.emplace(std::move(key), next).first->second);
  }
  map.size = static_cast<int64_t>(seen.size());
  return map;
}

}  // namespace mneme
