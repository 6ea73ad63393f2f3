// Sends each document to the training or the held-out side, by a hash of its beginning.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "data/corpus_writer.h"

namespace mneme {

// The first kRoutedBy ids of a document wait in memory until its side is known: equal documents
// fall on one side, and the side does not depend on what else is read.
class DocumentRouter {
 public:
  static constexpr size_t kRoutedBy = size_t{1} << 18;

  // held_out may be null: all is training. share: of documents that are held out, 0 … 1. Borrows
  // both.
  DocumentRouter(CorpusWriter& train, CorpusWriter* held_out, double share)
      : train_(train), held_out_(held_out), share_(share) {}

  // The next ids of the document at hand. Errors, here and below: of the writers.
  absl::Status Append(absl::Span<const int32_t> ids);
  absl::Status EndDocument(int64_t text_bytes);  // −1: not known
  // Forgets the document at hand, however long it is.
  absl::Status Drop();
  // Written so far, on both sides; those that wait are not counted.
  int64_t tokens() const {
    return train_.tokens() + (held_out_ != nullptr ? held_out_->tokens() : 0);
  }

 private:
  absl::Status Decide();

  CorpusWriter& train_;
  CorpusWriter* const held_out_;
  const double share_;
  std::vector<int32_t> waiting_;
  CorpusWriter* side_ = nullptr;  // of the document at hand, once decided
};

}  // namespace mneme
