// The vocabulary projection that Engram hashes over (docs/mathematics.md): raw id ->
// canonical id, so that " Apple", "apple" and "APPLE" share memory rows. It changes hash addresses
// only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace mneme {

// A token as its tokenizer shows it.
struct TokenText {
  std::string decoded;  // decode([id]), specials kept; holds U+FFFD where the token is a fragment
                        // of a character
  std::string raw;      // the vocabulary's own string, the key of a fragment
};

struct CanonicalMap {
  std::vector<int32_t> ids;  // [tokens] raw id -> canonical id
  int64_t size = 0;          // V', the number of distinct keys
};

// NFKC, NFD, combining marks dropped, lower-cased code point by code point, runs of space, TAB, CR
// and LF made one space, stripped of white space on both sides unless it is exactly one space.
// `text` must be UTF-8.
std::string NormalizeToken(const std::string& text);

// Canonical ids by first occurrence of the key, counting from 0.
CanonicalMap MakeCanonicalMap(absl::Span<const TokenText> tokens);

}  // namespace mneme
