// A prepared corpus: a folder of HDF5 token shards with document boundaries, and its manifest
// (docs/corpus_format.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mneme {

// What a model must know about ids. Two corpora of one run must agree (same digest).
struct VocabularyInfo {
  int64_t size = 0;                // ids 0 .. size − 1
  int64_t eos = -1;                // end of document
  int64_t bos = -1;                // −1: none
  int64_t pad = -1;                // raw id that pads look-back; −1: none
  std::vector<int32_t> canonical;  // [size] raw id -> canonical id (docs/mathematics.md)
  int64_t canonical_size = 0;      // V'
  std::string tokenizer;           // "bytes", or "external"
  std::string tokenizer_json;      // the file's text, if one was given
  std::string digest;              // of all the above
};

// Immutable; any thread may read. The files are mapped, so that the ranks of one host share their
// pages.
class Corpus {
 public:
  // Opens the folder, checks manifest, sizes and, once, checksums of all files. Errors: NotFound
  // and DataLoss, each naming file and cause.
  static absl::StatusOr<std::shared_ptr<const Corpus>> Open(const std::string& folder);
  virtual ~Corpus() = default;

  virtual const std::string& folder() const = 0;
  virtual const VocabularyInfo& vocabulary() const = 0;
  virtual int64_t tokens() const = 0;
  virtual int64_t documents() const = 0;
  virtual int64_t text_bytes() const = 0;  // UTF-8 bytes of the text, for bits per byte
  // Of vocabulary, ids and documents: names the data whatever its path.
  virtual const std::string& digest() const = 0;

  // ids [begin, begin + ids.size()) of the concatenated shards, and for each the number of its
  // document. REQUIRES: inside [0, tokens()); spans of one size.
  virtual void Read(int64_t begin, absl::Span<int32_t> ids,
                    absl::Span<int64_t> documents) const = 0;
  // Index of document d's first token. REQUIRES: 0 <= d < documents().
  virtual int64_t DocumentBegin(int64_t d) const = 0;
};

}  // namespace mneme
