#include "configs/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <limits>

namespace mneme {
namespace {

constexpr size_t kLongestWord = 100;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Drops underscores that stand between digits; any other underscore stays and spoils the number.
std::string WithoutUnderscores(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = text[i] == '_' && i > 0 && i + 1 < text.size() && IsDigit(text[i - 1]) &&
                         IsDigit(text[i + 1]);
    if (!between) out += text[i];
  }
  return out;
}

// Takes a suffix Ki ... Pi off the end and returns its power of two; 0 where there is none.
int TakeBinarySuffix(std::string& text) {
  static constexpr std::array<const char*, 5> kSuffixes = {"Ki", "Mi", "Gi", "Ti", "Pi"};
  for (size_t i = 0; i < kSuffixes.size(); ++i) {
    if (text.size() > 2 && text.compare(text.size() - 2, 2, kSuffixes[i]) == 0) {
      text.resize(text.size() - 2);
      return static_cast<int>(10 * (i + 1));
    }
  }
  return 0;
}

// A decimal number as digits times ten to a power: exact, however it was written.
struct Decimal {
  bool negative = false;
  std::string digits;
  int64_t exponent = 0;
};

std::optional<Decimal> ParseDecimal(const std::string& text) {
  Decimal d;
  size_t i = 0;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) d.negative = text[i++] == '-';
  bool point = false, any = false;
  for (; i < text.size() && (IsDigit(text[i]) || text[i] == '.'); ++i) {
    if (text[i] == '.') {
      if (point) return std::nullopt;
      point = true;
      continue;
    }
    any = true;
    d.digits += text[i];
    if (point) --d.exponent;
  }
  if (!any) return std::nullopt;
  if (i < text.size()) {
    if (text[i] != 'e' && text[i] != 'E') return std::nullopt;
    if (++i < text.size() && text[i] == '+') ++i;
    int64_t e = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), e);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    if (e > 1000 || e < -1000) return std::nullopt;
    d.exponent += e;
  }
  return d;
}

}  // namespace

std::optional<int64_t> ParseInteger(const std::string& text, std::string* why) {
  const auto fail = [&](const char* reason) {
    if (why != nullptr) *why = "'" + text + "' " + reason;
    return std::nullopt;
  };
  std::string plain = WithoutUnderscores(text);
  const int shift = TakeBinarySuffix(plain);
  std::optional<Decimal> d = ParseDecimal(plain);
  if (!d) return fail("is not a whole number");
  for (; d->exponent < 0 && !d->digits.empty(); ++d->exponent) {
    if (d->digits.back() != '0') return fail("is not a whole number");
    d->digits.pop_back();
  }
  __int128 value = 0;
  constexpr __int128 kLimit = std::numeric_limits<int64_t>::max();
  const auto grow = [&](int64_t factor, int64_t add) {
    value = value * factor + add;
    return value <= kLimit;
  };
  for (char c : d->digits) {
    if (!grow(10, c - '0')) return fail("does not fit into 64 bits");
  }
  for (; d->exponent > 0 && value != 0; --d->exponent) {
    if (!grow(10, 0)) return fail("does not fit into 64 bits");
  }
  if (!grow(int64_t{1} << shift, 0)) return fail("does not fit into 64 bits");
  return static_cast<int64_t>(d->negative ? -value : value);
}

std::optional<double> ParseNumber(const std::string& text) {
  std::string plain = WithoutUnderscores(text);
  if (!plain.empty() && plain[0] == '+') plain.erase(0, 1);
  double value = 0.0;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (error != std::errc{} || end != plain.data() + plain.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

std::string NumberText(double value) {
  std::array<char, 40> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return std::string(buffer.data(), end);
}

int64_t EditDistance(const std::string& a, const std::string& b) {
  const size_t width = b.size() + 1;
  std::vector<int64_t> rows((a.size() + 1) * width);
  const auto at = [&](size_t i, size_t j) -> int64_t& { return rows[i * width + j]; };
  for (size_t i = 0; i <= a.size(); ++i) at(i, 0) = static_cast<int64_t>(i);
  for (size_t j = 0; j <= b.size(); ++j) at(0, j) = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t replace = at(i - 1, j - 1) + (a[i - 1] == b[j - 1] ? 0 : 1);
      at(i, j) = std::min({at(i - 1, j) + 1, at(i, j - 1) + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        at(i, j) = std::min(at(i, j), at(i - 2, j - 2) + 1);
      }
    }
  }
  return at(a.size(), b.size());
}

std::string Nearest(const std::string& given, const std::vector<std::string>& candidates) {
  const std::string word = given.substr(0, kLongestWord);  // what is longer is near to nothing
  std::string best;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (const std::string& candidate : candidates) {
    const int64_t edits = EditDistance(word, candidate);
    if (edits < fewest) {
      fewest = edits;
      best = candidate;
    }
  }
  return best;
}

std::string Join(const std::vector<std::string>& words, const std::string& between) {
  std::string out;
  for (size_t i = 0; i < words.size(); ++i) out += (i == 0 ? "" : between) + words[i];
  return out;
}

std::optional<std::string> ResolvePath(const std::string& path, const std::string& folder,
                                       std::string* why) {
  std::string text = path;
  if (text == "~" || text.rfind("~/", 0) == 0) {
    const char* home = std::getenv("HOME");
    if (home == nullptr) {
      *why = "'" + path + "' begins with ~ but HOME is not set";
      return std::nullopt;
    }
    text = home + text.substr(1);
  }
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.compare(i, 2, "${") != 0) {
      out += text[i++];
      continue;
    }
    const size_t end = text.find('}', i);
    if (end == std::string::npos) {
      *why = "'" + path + "' has ${ without }";
      return std::nullopt;
    }
    const std::string name = text.substr(i + 2, end - i - 2);
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) {
      *why = "'" + path + "' names the environment variable " + name + ", which is not set";
      return std::nullopt;
    }
    out += value;
    i = end + 1;
  }
  std::filesystem::path whole = std::filesystem::path(out);
  if (whole.is_relative()) whole = std::filesystem::path(folder) / whole;
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(whole, error);
  std::string resolved = (error ? whole : absolute).lexically_normal().string();
  while (resolved.size() > 1 && resolved.back() == '/') resolved.pop_back();
  return resolved;
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace mneme
