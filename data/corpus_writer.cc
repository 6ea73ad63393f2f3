#include "data/corpus_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "data/files.h"
#include "data/hdf5_file.h"
#include "data/shard.h"
#include "data/vocabulary_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;
constexpr size_t kShardDocuments = size_t{4} << 20;

absl::StatusOr<ManifestFile> Entry(const std::string& folder, const std::string& name) {
  ManifestFile file{.name = name, .bytes = 0, .digest = ""};
  ASSIGN_OR_RETURN(file.bytes, FileSize(folder + "/" + name));
  ASSIGN_OR_RETURN(file.digest, FileDigest(folder + "/" + name));
  return file;
}

std::string Digest(const std::vector<int64_t>& values) {
  return BytesDigest(
      std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t)));
}

}  // namespace

CorpusWriter::CorpusWriter(std::string folder, const VocabularyInfo& vocabulary,
                           int64_t shard_tokens)
    : folder_(std::move(folder)),
      vocabulary_(vocabulary),
      shard_tokens_(shard_tokens),
      id_bytes_(H5TypeBytes(TokenType(vocabulary.size))) {}

CorpusWriter::~CorpusWriter() {
  if (spool_ >= 0) ::close(spool_);
}

absl::Status CorpusWriter::Append(absl::Span<const int32_t> ids) {
  for (const int32_t id : ids) {
    // Little-endian, so the low bytes come first.
    buffer_.append(reinterpret_cast<const char*>(&id), static_cast<size_t>(id_bytes_));
  }
  spooled_ += static_cast<int64_t>(ids.size());
  return buffer_.size() >= kBufferBytes ? FillSpool() : absl::OkStatus();
}

absl::Status CorpusWriter::EndDocument(int64_t text_bytes) {
  CHECK_LT(document_begin_, spooled_);
  begins_.push_back(document_begin_);
  document_bytes_.push_back(text_bytes);
  if (text_bytes < 0) text_bytes_known_ = false;
  text_bytes_ += std::max<int64_t>(0, text_bytes);
  document_begin_ = spooled_;
  const bool full = spooled_ >= shard_tokens_ || begins_.size() >= kShardDocuments;
  return full ? Seal() : absl::OkStatus();
}

absl::Status CorpusWriter::DropDocument() {
  // The shard's first ids lie in the spool, those after them in the buffer.
  const int64_t kept = document_begin_ * id_bytes_;
  const int64_t in_spool = spooled_ * id_bytes_ - static_cast<int64_t>(buffer_.size());
  buffer_.resize(static_cast<size_t>(std::max<int64_t>(0, kept - in_spool)));
  spooled_ = document_begin_;
  if (kept >= in_spool) return absl::OkStatus();
  const bool cut = ::ftruncate(spool_, kept) == 0 && ::lseek(spool_, kept, SEEK_SET) == kept;
  return cut ? absl::OkStatus() : FileError(SpoolPath(), "shorten", errno);
}

absl::Status CorpusWriter::FillSpool() {
  if (spool_ < 0) {
    spool_ = ::open(SpoolPath().c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (spool_ < 0) return FileError(SpoolPath(), "create", errno);
  }
  for (size_t done = 0; done < buffer_.size();) {
    const ssize_t put = ::write(spool_, buffer_.data() + done, buffer_.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return FileError(SpoolPath(), "write", errno);
    done += static_cast<size_t>(put);
  }
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status CorpusWriter::Seal() {
  RETURN_IF_ERROR(FillSpool());
  char name[32];
  std::snprintf(name, sizeof(name), "shard-%05zu.h5", manifest_.shards.size());
  RETURN_IF_ERROR(WriteShard(folder_ + "/" + name));
  ManifestShard shard;
  ASSIGN_OR_RETURN(shard.file, Entry(folder_, name));
  ASSIGN_OR_RETURN(const std::string ids_digest, FileDigest(SpoolPath()));
  shard.content = BytesDigest(ids_digest + Digest(begins_));
  shard.tokens = spooled_;
  shard.documents = static_cast<int64_t>(begins_.size());
  shard.text_bytes = text_bytes_;
  manifest_.tokens += shard.tokens;
  manifest_.documents += shard.documents;
  manifest_.text_bytes += shard.text_bytes;
  manifest_.shards.push_back(std::move(shard));
  spooled_ = document_begin_ = text_bytes_ = 0;
  begins_.clear();
  document_bytes_.clear();
  return RemoveSpool();
}

absl::Status CorpusWriter::RemoveSpool() {
  ::close(std::exchange(spool_, -1));
  if (::unlink(SpoolPath().c_str()) != 0) return FileError(SpoolPath(), "remove", errno);
  return absl::OkStatus();
}

absl::Status CorpusWriter::WriteShard(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<H5File> file, H5File::Create(path));
  const H5Type type = TokenType(vocabulary_.size);
  std::string piece(kBufferBytes, '\0');
  for (int64_t row = 0; row < spooled_;) {
    const int64_t rows = std::min(spooled_ - row, static_cast<int64_t>(piece.size()) / id_bytes_);
    const ssize_t got = ::pread(spool_, piece.data(), static_cast<size_t>(rows * id_bytes_),
                                static_cast<off_t>(row * id_bytes_));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return FileError(SpoolPath(), "read", got < 0 ? errno : EIO);
    const int64_t whole = got / id_bytes_;
    RETURN_IF_ERROR(file->WriteRows(kTokensName, type, {spooled_}, row, whole, piece.data()));
    row += whole;
  }
  const auto documents = static_cast<int64_t>(begins_.size());
  RETURN_IF_ERROR(file->Write(kBeginsName, H5Type::kI64, {documents}, begins_.data()));
  if (text_bytes_known_) {
    RETURN_IF_ERROR(file->Write(kTextBytesName, H5Type::kI64, {documents}, document_bytes_.data()));
  }
  RETURN_IF_ERROR(file->WriteText(kVocabularyDigestName, vocabulary_.digest));
  RETURN_IF_ERROR(
      file->WriteText(kTokenizerDigestName, vocabulary_.tokenizer_json.empty()
                                                ? std::string()
                                                : BytesDigest(vocabulary_.tokenizer_json)));
  return file->Close();
}

absl::StatusOr<Manifest> CorpusWriter::Finish(std::vector<ManifestFile> inputs, std::string options,
                                              int64_t text_bytes) {
  CHECK_EQ(document_begin_, spooled_);
  if (!begins_.empty()) RETURN_IF_ERROR(Seal());
  if (spool_ >= 0) RETURN_IF_ERROR(RemoveSpool());  // of documents that were dropped
  CHECK(!manifest_.shards.empty());
  RETURN_IF_ERROR(WriteVocabulary(folder_ + "/" + kVocabularyName, vocabulary_));
  ASSIGN_OR_RETURN(manifest_.vocabulary, Entry(folder_, kVocabularyName));
  manifest_.vocabulary_digest = vocabulary_.digest;
  if (!text_bytes_known_) manifest_.text_bytes = text_bytes;
  manifest_.inputs = std::move(inputs);
  manifest_.options = std::move(options);
  RETURN_IF_ERROR(WriteFileAtomically(folder_ + "/" + kManifestName, ManifestText(manifest_)));
  return manifest_;
}

}  // namespace mneme
