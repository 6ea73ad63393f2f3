// Fills the memory it is handed with the samples of a step.
#pragma once

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

class Loader {
 public:
  // Opens the corpora of `config`. Errors: a corpus that cannot be read, vocabularies that differ,
  // too few tokens.
  static absl::StatusOr<std::unique_ptr<Loader>> Open(const DataConfig& config,
                                                      int64_t sequence_length);

  const VocabularyInfo& vocabulary() const;
  int64_t sequence_length() const { return sequence_length_; }
  // Names the data whatever its path: changes when corpora, weights, seed or boundary change.
  std::string digest() const;
  int64_t tokens() const;  // of all corpora

  // Samples [first, first + rows) of the global order; returns how many targets are counted.
  int64_t Fill(int64_t first, int64_t rows, BatchView view) const;

 private:
  Loader() = default;
  DataConfig config_;
  int64_t sequence_length_ = 0;
  std::vector<std::shared_ptr<const Corpus>> corpora_;
  std::unique_ptr<SampleOrder> order_;
};

// Sequences for held-out scoring: `sequences` of them spread evenly over the corpus (0: all, the
// last one short is padded with targets −1), always the same, whatever the rank count.
class HeldOut {
 public:
  static absl::StatusOr<std::unique_ptr<HeldOut>> Open(const HeldOutConfig& config,
                                                       const std::string& doc_boundary,
                                                       int64_t sequence_length);
  int64_t sequences() const { return static_cast<int64_t>(begins_.size()); }
  int64_t sequence_length() const { return sequence_length_; }
  const Corpus& corpus() const { return *corpus_; }
  // Sequences [first, first + rows); rows beyond the end are padding with no counted target.
  // Returns counted targets.
  int64_t Fill(int64_t first, int64_t rows, BatchView view) const;
  // UTF-8 bytes that the counted targets of all sequences stand for (estimated by tokens where the
  // corpus is external).
  double text_bytes() const;

 private:
  HeldOut() = default;
  std::shared_ptr<const Corpus> corpus_;
  std::string doc_boundary_;
  int64_t sequence_length_ = 0;
  std::vector<int64_t> begins_;
};

// The one rule that both use: ids (length + 1) and their documents -> one row of a view. Returns
// counted targets.
int64_t FillRow(absl::Span<const int32_t> ids, absl::Span<const int64_t> documents, bool reset,
                BatchView row);

}  // namespace mneme
