// One token shard, mapped into memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "data/hdf5_file.h"
#include "data/manifest.h"

namespace mneme {

// Ids are u16 where the vocabulary fits, u32 otherwise. A document lies whole in one shard.
inline constexpr char kTokensName[] = "tokens";  // [tokens] u16 or u32
inline constexpr char kBeginsName[] =
    "document_begins";  // [documents] i64, in the shard; the first is 0
inline constexpr char kTextBytesName[] =
    "document_text_bytes";  // [documents] i64; absent where ids were made elsewhere
inline constexpr char kVocabularyDigestName[] = "vocabulary_digest";
inline constexpr char kTokenizerDigestName[] = "tokenizer_json_digest";

inline H5Type TokenType(int64_t vocabulary) {
  return vocabulary <= 65536 ? H5Type::kU16 : H5Type::kU32;
}

// Immutable; any thread may read. Pages are the system's, shared by all processes of a host.
class Shard {
 public:
  // Checks size and checksum, asks HDF5 once where the data lies, and maps the file. DataLoss names
  // the file.
  static absl::StatusOr<std::unique_ptr<const Shard>> Open(const std::string& folder,
                                                           const ManifestShard& entry,
                                                           const std::string& vocabulary_digest,
                                                           int64_t vocabulary_size);
  ~Shard();
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  // REQUIRES: 0 <= i < tokens().
  int32_t Token(int64_t i) const {
    return narrow_ != nullptr ? narrow_[i] : static_cast<int32_t>(wide_[i]);
  }
  // Its first token, in the shard. REQUIRES: 0 <= d < documents().
  int64_t DocumentBegin(int64_t d) const { return begins_[d]; }
  // The document that holds token i.
  int64_t DocumentOf(int64_t i) const;

 private:
  Shard() = default;
  void* map_ = nullptr;
  size_t map_bytes_ = 0;
  int64_t tokens_ = 0;
  int64_t documents_ = 0;
  const uint16_t* narrow_ = nullptr;  // one of the two
  const uint32_t* wide_ = nullptr;
  const int64_t* begins_ = nullptr;
};

// Size and digest as the manifest has them; DataLoss with both numbers otherwise.
absl::Status CheckFile(const std::string& folder, const ManifestFile& file);

}  // namespace mneme
