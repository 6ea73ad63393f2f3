// Fills the memory it is handed with the samples of a step.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "configs/data.h"
#include "data/corpus.h"
#include "data/order.h"

namespace mneme {

// Host memory of `rows` sequences, each array rows · length.
struct BatchView {
  absl::Span<int32_t> tokens;     // inputs
  absl::Span<int32_t> targets;    // next ids; −1 where not counted (document changes under reset)
  absl::Span<int32_t> positions;  // 0 .. length − 1
  absl::Span<int32_t>
      doc_start;  // position of the document's first token in the row; 0 under ignore
};

// A corpus as the loader sees it: with `bos`, that id stands before every document and counts as a
// token of it.
class TokenStream {
 public:
  TokenStream(std::shared_ptr<const Corpus> corpus, bool bos)
      : corpus_(std::move(corpus)), bos_(bos) {}
  const Corpus& corpus() const { return *corpus_; }
  int64_t tokens() const { return corpus_->tokens() + (bos_ ? corpus_->documents() : 0); }
  // As Corpus::Read.
  void Read(int64_t begin, absl::Span<int32_t> ids, absl::Span<int64_t> documents) const;

 private:
  int64_t Begin(int64_t d) const { return corpus_->DocumentBegin(d) + d; }
  std::shared_ptr<const Corpus> corpus_;
  bool bos_ = false;
};

// Immutable; any thread may fill.
class Loader {
 public:
  // Opens the corpora of `config`. Errors: a corpus that cannot be read (NotFound, DataLoss);
  // vocabularies that differ, too few tokens, weights that do not fit, BOS asked of a vocabulary
  // without one (InvalidArgument).
  static absl::StatusOr<std::unique_ptr<Loader>> Open(const DataConfig& config,
                                                      int64_t sequence_length);

  const VocabularyInfo& vocabulary() const { return streams_.front().corpus().vocabulary(); }
  int64_t sequence_length() const { return sequence_length_; }
  // Names the data whatever its path: changes when corpora, weights, seed, boundary or BOS change.
  std::string digest() const;
  int64_t tokens() const;  // of all corpora
  // Whether a document's first token is a border (doc_boundary: reset); if not, doc_start is 0.
  bool documents() const { return config_.doc_boundary == "reset"; }

  // Samples [first, first + rows) of the global order; returns how many targets are counted.
  int64_t Fill(int64_t first, int64_t rows, BatchView view) const;

 private:
  Loader() = default;
  DataConfig config_;
  int64_t sequence_length_ = 0;
  std::vector<TokenStream> streams_;
  std::unique_ptr<SampleOrder> order_;
};

// Sequences for held-out scoring: `sequences` of them spread evenly over the corpus (0: all, the
// last one short is padded with targets −1), always the same, whatever the rank count.
class HeldOut {
 public:
  // bos: as DataConfig has it for training. Errors as Loader::Open.
  static absl::StatusOr<std::unique_ptr<HeldOut>> Open(const HeldOutConfig& config,
                                                       const std::string& doc_boundary,
                                                       int64_t sequence_length, bool bos = false);
  int64_t sequences() const { return static_cast<int64_t>(begins_.size()); }
  int64_t sequence_length() const { return sequence_length_; }
  const Corpus& corpus() const { return stream_->corpus(); }
  // Sequences [first, first + rows); rows beyond the end are padding with no counted target.
  // Returns counted targets.
  int64_t Fill(int64_t first, int64_t rows, BatchView view) const;
  // The document of each target of a sequence; −1 for padding. REQUIRES: 0 <= sequence <
  // sequences().
  std::vector<int64_t> TargetDocuments(int64_t sequence) const;
  // UTF-8 bytes that the counted targets of all sequences stand for: exact for the byte vocabulary
  // (a byte each, the end of a document none), in proportion to the corpus's tokens where ids were
  // made elsewhere.
  double text_bytes() const;

 private:
  HeldOut() = default;
  std::unique_ptr<TokenStream> stream_;
  bool reset_ = true;
  int64_t sequence_length_ = 0;
  std::vector<int64_t> begins_;
};

// The one rule that both use (docs/mathematics.md): ids (length + 1) and their documents ->
// one row of a view. A document below 0 is padding, never counted. Returns counted targets.
int64_t FillRow(absl::Span<const int32_t> ids, absl::Span<const int64_t> documents, bool reset,
                BatchView row);

}  // namespace mneme
