// Text to ids and back. Today: bytes. A native tokenizer is one more class behind this interface,
// and its name in MakeTokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "data/corpus.h"

namespace mneme {

// The byte vocabulary: ids 0–255 are bytes.
inline constexpr int64_t kByteEos = 256;
inline constexpr int64_t kBytePad = 257;
inline constexpr int64_t kByteVocabulary = 258;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual const VocabularyInfo& vocabulary() const = 0;
  // Appends the ids of `text`, without any end of document.
  virtual void Encode(const std::string& text, std::vector<int32_t>& ids) const = 0;
  // The bytes that ids stand for; specials stand for none.
  virtual std::string Decode(absl::Span<const int32_t> ids) const = 0;
  // One id for people: "e", "\n" as "↵", a fragment as "<e2>", a special by its name.
  virtual std::string Show(int32_t id) const = 0;
};

std::unique_ptr<Tokenizer> ByteTokenizer();

// The tokenizer of a corpus. FailedPrecondition where its ids were made elsewhere ("external").
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const VocabularyInfo& vocabulary);

}  // namespace mneme
