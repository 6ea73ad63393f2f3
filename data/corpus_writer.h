// Writes one corpus, document by document: ids are spooled to a file beside, and each full spool
// becomes a shard.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "data/corpus.h"
#include "data/manifest.h"

namespace mneme {

class CorpusWriter {
 public:
  // `folder` must exist and be empty. A shard ends at the first document's end at or after
  // shard_tokens tokens, or after 4 Mi documents: memory is bounded by the latter.
  CorpusWriter(std::string folder, const VocabularyInfo& vocabulary, int64_t shard_tokens);
  ~CorpusWriter();

  // Ids of the document at hand. REQUIRES: inside the vocabulary.
  absl::Status Append(absl::Span<const int32_t> ids);
  // text_bytes: of the document, −1 where they are not known. REQUIRES: the document has an id.
  absl::Status EndDocument(int64_t text_bytes);
  // Forgets the ids of the document at hand.
  absl::Status DropDocument();
  int64_t tokens() const { return manifest_.tokens + spooled_; }
  int64_t documents() const { return manifest_.documents + static_cast<int64_t>(begins_.size()); }

  // Writes what is left, the vocabulary and, last, the manifest; all synced. text_bytes: of the
  // whole corpus where the documents' are not known. REQUIRES: at least one document.
  absl::StatusOr<Manifest> Finish(std::vector<ManifestFile> inputs, std::string options,
                                  int64_t text_bytes);

 private:
  absl::Status FillSpool();
  absl::Status RemoveSpool();
  absl::Status Seal();
  absl::Status WriteShard(const std::string& path);
  std::string SpoolPath() const { return folder_ + "/spool"; }

  const std::string folder_;
  const VocabularyInfo vocabulary_;
  const int64_t shard_tokens_;
  const int64_t id_bytes_;
  Manifest manifest_;
  int spool_ = -1;              // file descriptor
  std::string buffer_;          // ids not yet in the spool
  int64_t spooled_ = 0;         // ids of the shard at hand, in the spool or the buffer
  int64_t document_begin_ = 0;  // of the document at hand, in the shard
  int64_t text_bytes_ = 0;      // of the shard at hand
  bool text_bytes_known_ = true;
  std::vector<int64_t> begins_;          // [documents of the shard]
  std::vector<int64_t> document_bytes_;  // [documents of the shard]
};

}  // namespace mneme
