// Finds the documents in text files and JSON lines, in pieces.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace mneme {

// Takes what is found: the text of a document in any number of pieces, then its end.
class DocumentSink {
 public:
  virtual ~DocumentSink() = default;
  // An error ends the reading and is what it returns. Pieces may end inside a character.
  virtual absl::Status Text(const std::string& piece) = 0;
  virtual absl::Status End() = 0;
};

// Where the documents of a text file end (prepare.h).
struct TextRule {
  int64_t blank_lines = 0;
  int64_t document_bytes = 0;
};

// Called with the bytes read since the last call; may be empty.
using ReadMeter = std::function<void(int64_t)>;

// Bytes are kept as they are, valid UTF-8 or not, but for a byte-order mark at the begin and, where
// documents end at blank lines, the blank lines around them. A document that grows to four times
// document_bytes ends at the end of a line.
// InvalidArgument for a file that is compressed or UTF-16 by its first bytes, or holds a byte 0.
absl::Status ReadText(const std::string& path, const TextRule& rule, DocumentSink& sink,
                      const ReadMeter& meter);

// A document a line: the string `field` of an object. Blank lines are passed over. InvalidArgument
// with file, line and reason otherwise.
absl::Status ReadJsonLines(const std::string& path, const std::string& field, DocumentSink& sink,
                           const ReadMeter& meter);

}  // namespace mneme
