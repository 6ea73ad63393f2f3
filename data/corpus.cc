#include "data/corpus.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "data/manifest.h"
#include "data/shard.h"
#include "data/vocabulary_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

class ShardedCorpus final : public Corpus {
 public:
  ShardedCorpus(std::string folder, VocabularyInfo vocabulary, const Manifest& manifest)
      : folder_(std::move(folder)),
        vocabulary_(std::move(vocabulary)),
        text_bytes_(manifest.text_bytes),
        digest_(CorpusDigest(manifest)) {}

  void Add(std::unique_ptr<const Shard> shard) {
    token_ends_.push_back(tokens() + shard->tokens());
    document_ends_.push_back(documents() + shard->documents());
    shards_.push_back(std::move(shard));
  }

  const std::string& folder() const override { return folder_; }
  const VocabularyInfo& vocabulary() const override { return vocabulary_; }
  int64_t tokens() const override { return token_ends_.empty() ? 0 : token_ends_.back(); }
  int64_t documents() const override { return document_ends_.empty() ? 0 : document_ends_.back(); }
  int64_t text_bytes() const override { return text_bytes_; }
  const std::string& digest() const override { return digest_; }

  void Read(int64_t begin, absl::Span<int32_t> ids, absl::Span<int64_t> documents) const override;
  int64_t DocumentBegin(int64_t d) const override;

 private:
  const std::string folder_;
  const VocabularyInfo vocabulary_;
  const int64_t text_bytes_;
  const std::string digest_;
  std::vector<std::unique_ptr<const Shard>> shards_;
  std::vector<int64_t> token_ends_;     // [shards] tokens up to the end of each
  std::vector<int64_t> document_ends_;  // [shards]
};

// Index of the shard that holds item `i`.
size_t Find(const std::vector<int64_t>& ends, int64_t i) {
  return static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), i) - ends.begin());
}

void ShardedCorpus::Read(int64_t begin, absl::Span<int32_t> ids,
                         absl::Span<int64_t> documents) const {
  CHECK_EQ(ids.size(), documents.size());
  CHECK_LE(0, begin);
  CHECK_LE(begin, tokens() - static_cast<int64_t>(ids.size()));
  size_t done = 0;
  for (size_t s = Find(token_ends_, begin); done < ids.size(); ++s) {
    const Shard& shard = *shards_[s];
    const int64_t first_token = token_ends_[s] - shard.tokens();
    const int64_t first_document = document_ends_[s] - shard.documents();
    int64_t i = begin + static_cast<int64_t>(done) - first_token;
    int64_t document = shard.DocumentOf(i);
    int64_t end =
        document + 1 < shard.documents() ? shard.DocumentBegin(document + 1) : shard.tokens();
    for (; i < shard.tokens() && done < ids.size(); ++i, ++done) {
      while (i >= end) {
        ++document;
        end = document + 1 < shard.documents() ? shard.DocumentBegin(document + 1) : shard.tokens();
      }
      ids[done] = shard.Token(i);
      documents[done] = first_document + document;
    }
  }
}

int64_t ShardedCorpus::DocumentBegin(int64_t d) const {
  CHECK_LE(0, d);
  CHECK_LT(d, documents());
  const size_t s = Find(document_ends_, d);
  const Shard& shard = *shards_[s];
  return token_ends_[s] - shard.tokens() +
         shard.DocumentBegin(d - (document_ends_[s] - shard.documents()));
}

// A missing manifest: say what the folder is, if that can be seen.
absl::Status NoManifest(const std::string& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    return absl::NotFoundError(folder + ": no such folder; make it with `mneme prepare`");
  }
  if (std::filesystem::exists(folder + "/train/" + kManifestName, ignored)) {
    return absl::NotFoundError(folder + ": holds two corpora, name one: " + folder + "/train or " +
                               folder + "/held_out");
  }
  return absl::NotFoundError(folder + ": is not a corpus (it has no " + kManifestName +
                             "); make one with `mneme prepare`");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Corpus>> Corpus::Open(const std::string& folder) {
  const auto manifest = ReadManifest(folder);
  if (absl::IsNotFound(manifest.status())) return NoManifest(folder);
  RETURN_IF_ERROR(manifest.status());
  RETURN_IF_ERROR(CheckFile(folder, manifest->vocabulary));
  const std::string path = folder + "/" + manifest->vocabulary.name;
  ASSIGN_OR_RETURN(VocabularyInfo vocabulary, ReadVocabulary(path));
  if (vocabulary.digest != manifest->vocabulary_digest) {
    return absl::DataLossError(path + ": holds vocabulary " + vocabulary.digest +
                               " where the manifest has " + manifest->vocabulary_digest +
                               "; prepare the corpus again");
  }
  const int64_t size = vocabulary.size;
  auto corpus = std::make_shared<ShardedCorpus>(folder, std::move(vocabulary), *manifest);
  for (const ManifestShard& entry : manifest->shards) {
    ASSIGN_OR_RETURN(std::unique_ptr<const Shard> shard,
                     Shard::Open(folder, entry, manifest->vocabulary_digest, size));
    corpus->Add(std::move(shard));
  }
  return std::shared_ptr<const Corpus>(std::move(corpus));
}

}  // namespace mneme
