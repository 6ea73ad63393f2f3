// Values as people write them, and the words of a good complaint. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mneme {

// "12", "2_000_000", "1e9", "1.5e3", "4Ki" (Ki, Mi, Gi, Ti, Pi are powers of 1,024) -> the whole
// number; nothing where the text is no number, not whole, or beyond 64 bits. `why` then says which.
std::optional<int64_t> ParseInteger(const std::string& text, std::string* why = nullptr);
// A finite number; underscores between digits are allowed.
std::optional<double> ParseNumber(const std::string& text);
// The shortest text that reads back to the same double.
std::string NumberText(double value);

// "1.5 GiB".
std::string FormatBytes(int64_t bytes);

// Edits (insert, delete, replace, swap neighbours) between two words.
int64_t EditDistance(const std::string& a, const std::string& b);
// The candidate with the fewest edits; the first of equals. Empty where there are no candidates.
std::string Nearest(const std::string& word, const std::vector<std::string>& candidates);

std::string Join(const std::vector<std::string>& words, const std::string& between);

// Expands a leading ~ and every ${VAR}, then makes the path absolute, taking a relative one from
// `folder`. Nothing where a variable is not set or a brace is not closed; `why` then says which.
std::optional<std::string> ResolvePath(const std::string& path, const std::string& folder,
                                       std::string* why);

}  // namespace mneme
