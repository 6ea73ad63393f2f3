#include "data/tokenizer.h"

#include <cstdio>
#include <utility>

#include "data/canonical.h"
#include "data/vocabulary_file.h"

namespace mneme {
namespace {

constexpr char kEosText[] = "<|end of document|>";
constexpr char kPadText[] = "<|pad|>";

// "<e2>": how a vocabulary of bytes writes a byte that is no character by itself.
std::string Hex(int32_t byte) {
  char text[8];
  std::snprintf(text, sizeof(text), "<%02x>", static_cast<unsigned>(byte) & 0xFFu);
  return text;
}

VocabularyInfo MakeByteVocabulary() {
  std::vector<TokenText> tokens;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool ascii = byte < 128;
    const std::string decoded = ascii ? std::string(1, static_cast<char>(byte)) : "\xEF\xBF\xBD";
    tokens.push_back({.decoded = decoded, .raw = ascii ? decoded : Hex(byte)});
  }
  tokens.push_back({.decoded = kEosText, .raw = kEosText});
  tokens.push_back({.decoded = kPadText, .raw = kPadText});
  CanonicalMap map = MakeCanonicalMap(tokens);

  VocabularyInfo vocabulary;
  vocabulary.size = kByteVocabulary;
  vocabulary.eos = kByteEos;
  vocabulary.pad = kBytePad;
  vocabulary.canonical = std::move(map.ids);
  vocabulary.canonical_size = map.size;
  vocabulary.tokenizer = "bytes";
  vocabulary.digest = VocabularyDigest(vocabulary);
  return vocabulary;
}

class Bytes final : public Tokenizer {
 public:
  const VocabularyInfo& vocabulary() const override { return vocabulary_; }

  void Encode(const std::string& text, std::vector<int32_t>& ids) const override {
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }

  std::string Decode(absl::Span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id >= 0 && id < 256) text.push_back(static_cast<char>(id));
    }
    return text;
  }

  std::string Show(int32_t id) const override {
    if (id == kByteEos) return kEosText;
    if (id == kBytePad) return kPadText;
    if (id == '\n') return "↵";
    if (id >= 32 && id < 127) return std::string(1, static_cast<char>(id));
    return Hex(id);
  }

 private:
  const VocabularyInfo vocabulary_ = MakeByteVocabulary();
};

}  // namespace

std::unique_ptr<Tokenizer> ByteTokenizer() { return std::make_unique<Bytes>(); }

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const VocabularyInfo& vocabulary) {
  std::unique_ptr<Tokenizer> bytes = ByteTokenizer();
  if (vocabulary.digest == bytes->vocabulary().digest) return bytes;
  return absl::FailedPreconditionError(
      "the corpus's ids were made elsewhere (tokenizer '" + vocabulary.tokenizer +
      "'): they cannot be turned into text here; give ids instead of text, and read ids");
}

}  // namespace mneme
