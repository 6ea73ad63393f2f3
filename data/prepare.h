// Text, or token ids made elsewhere, to a corpus (docs/corpus_format.md). Streams: memory does not
// grow with the input, only with its longest JSONL line or blank-line block.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

// What cannot be seen in ids that were made elsewhere.
struct ExternalIds {
  int64_t eos = -1;        // the end-of-document id: needed
  int64_t bos = -1;        // −1: none
  int64_t pad = -1;        // pads the hash look-back; −1: none
  int64_t vocabulary = 0;  // ids are below it; 0: the length of the canonical map; up to 10^9
  std::string
      canonical;  // .npy: raw id -> canonical id; "": identity. Ids beyond its end map to pad's
  int64_t text_bytes =
      0;  // UTF-8 bytes that all inputs together stand for: needed, for bits per byte; up to 2^50
  std::string tokenizer_json;  // kept in the corpus with its digest; "": none
};

struct PrepareProgress {
  std::string input;       // file being read
  int64_t bytes_done = 0;  // of all inputs
  int64_t bytes_total = 0;
  int64_t tokens = 0;  // written so far
};

struct PrepareOptions {
  // Files, and folders: of these all *.txt, *.text, *.md, *.jsonl and *.ndjson below them in the
  // order of their names.
  // *.jsonl and *.ndjson are JSON lines, *.npy are token ids (all inputs then are), all else is
  // text. None lies inside `output`. Options of text do not go with ids, nor those of ids with
  // text.
  std::vector<std::string> inputs;
  std::string output;
  std::string text_field = "text";  // of a JSON line; a line is a document

  // Text files. Both 0: a file is a document.
  int64_t blank_lines = 0;     // a document ends at this many blank lines, or more
  int64_t document_bytes = 0;  // blocks (between blank_lines, at least 1) are grouped to documents
                               // of about this size, up to 2^40

  // Share of the documents set aside: 0 makes one corpus in `output`, more makes output/train and
  // output/held_out. Which side a document falls on depends on its first 2^18 ids alone.
  double held_out = 0.0;

  // Put the new corpus in the place of another one. Of nothing else: a folder whose manifest is no
  // corpus's, or that holds anything more, is refused and stays as it is.
  bool replace = false;
  int64_t shard_tokens = int64_t{1}
                         << 28;  // a shard ends at the first document's end at or after so many
  ExternalIds ids;               // for .npy inputs
  std::function<void(const PrepareProgress&)>
      progress;  // called about every 16 MB of input; may be empty
};

struct PreparedCorpus {
  std::string folder;
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t text_bytes = 0;
  int64_t shards = 0;
  std::string digest;  // Corpus::digest()
};

struct PrepareReport {
  bool already_there = false;           // same inputs, same options: nothing was done
  std::vector<PreparedCorpus> corpora;  // one, or train and held_out
};

// Works in a hidden folder beside `output` and renames it when it is whole and synced, so that
// nothing half written is ever taken for a corpus. On any error its leftovers are removed; what a
// killed process left is removed next time. Errors: InvalidArgument (options, or an input's
// content: names file and line), NotFound, PermissionDenied, ResourceExhausted (disk full),
// FailedPrecondition (`output` holds something else, or someone is writing it).
absl::StatusOr<PrepareReport> Prepare(const PrepareOptions& options);

}  // namespace mneme
