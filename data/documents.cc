#include "data/documents.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "configs/json.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr size_t kPiece = size_t{1} << 20;
constexpr int64_t kLongestBlock = 4;  // times document_bytes

struct Magic {
  const char* bytes;
  size_t size;
  const char* what;
};
constexpr Magic kNotText[] = {
    {"\xFD"
     "7zXZ",
     5, "is compressed by xz: unpack it first (xz -dk)"},
    {"\x1F\x8B", 2, "is compressed by gzip: unpack it first (gzip -dk)"},
    {"\x28\xB5\x2F\xFD", 4, "is compressed by zstd: unpack it first (zstd -dk)"},
    {"BZh", 3, "is compressed by bzip2: unpack it first (bzip2 -dk)"},
    {"PK\x03\x04", 4, "is a zip archive, not text: unpack it first"},
    {"%PDF-", 5, "is a PDF, not text: extract its text first (pdftotext)"},
    {"\x93NUMPY", 6, "is a .npy array: give it the ending .npy"},
    {"\xFF\xFE", 2, "is UTF-16, not UTF-8: convert it first (iconv -f UTF-16 -t UTF-8)"},
    {"\xFE\xFF", 2, "is UTF-16, not UTF-8: convert it first (iconv -f UTF-16 -t UTF-8)"},
};

// Says no to what is certainly not text; `offset`: of the piece in its file.
absl::Status CheckText(const std::string& path, const std::string& piece, int64_t offset) {
  for (const Magic& magic : kNotText) {
    if (offset == 0 && piece.compare(0, magic.size, magic.bytes, magic.size) == 0) {
      return absl::InvalidArgumentError(path + ": " + magic.what);
    }
  }
  const size_t zero = piece.find('\0');
  if (zero == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(path + ": is no text: byte 0 at offset " +
                                    std::to_string(offset + static_cast<int64_t>(zero)) +
                                    "; give UTF-8 text, JSON lines or .npy");
}

class Input {
 public:
  Input(const std::string& path, const ReadMeter& meter)
      : path_(path), meter_(meter), file_(std::fopen(path.c_str(), "rb")) {}
  bool ok() const { return file_ != nullptr; }

  // Up to kPiece bytes, without a byte-order mark; empty at the end. An error for what is no text.
  absl::StatusOr<std::string> Piece() {
    std::string piece(kPiece, '\0');
    piece.resize(std::fread(piece.data(), 1, piece.size(), file_.get()));
    if (std::ferror(file_.get()) != 0) return FileError(path_, "read", errno);
    if (meter_) meter_(static_cast<int64_t>(piece.size()));
    RETURN_IF_ERROR(CheckText(path_, piece, read_));
    const bool first = read_ == 0;
    read_ += static_cast<int64_t>(piece.size());
    if (first && piece.compare(0, 3, "\xEF\xBB\xBF") == 0) piece.erase(0, 3);
    return piece;
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  const std::string path_;
  const ReadMeter& meter_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t read_ = 0;  // bytes so far
};

// Calls `line` with every line, its "\n" included but for a last one without.
template <class Line>
absl::Status ForEachLine(const std::string& path, const ReadMeter& meter, const Line& line) {
  Input input(path, meter);
  if (!input.ok()) return FileError(path, "open", errno);
  std::string rest;
  while (true) {
    ASSIGN_OR_RETURN(std::string piece, input.Piece());
    if (piece.empty()) break;
    size_t begin = 0;
    for (size_t end = piece.find('\n'); end != std::string::npos; end = piece.find('\n', begin)) {
      rest.append(piece, begin, end + 1 - begin);
      RETURN_IF_ERROR(line(rest));
      rest.clear();
      begin = end + 1;
    }
    rest.append(piece, begin, std::string::npos);
  }
  return rest.empty() ? absl::OkStatus() : line(rest);
}

bool IsBlank(const std::string& line) {
  return line.find_first_not_of(" \t\r\n\v\f") == std::string::npos;
}

absl::Status ReadWhole(const std::string& path, DocumentSink& sink, const ReadMeter& meter) {
  Input input(path, meter);
  if (!input.ok()) return FileError(path, "open", errno);
  while (true) {
    ASSIGN_OR_RETURN(std::string piece, input.Piece());
    if (piece.empty()) break;
    RETURN_IF_ERROR(sink.Text(piece));
  }
  return sink.End();
}

// Cuts at blank lines.
class BlockReader {
 public:
  BlockReader(const TextRule& rule, DocumentSink& sink) : rule_(rule), sink_(sink) {}

  absl::Status Line(const std::string& line) {
    if (IsBlank(line)) {
      ++blanks_;
      if (bytes_ > 0) gap_ += line;
      return absl::OkStatus();
    }
    const int64_t needed = rule_.blank_lines > 0 ? rule_.blank_lines : 1;
    const bool at_block = blanks_ >= needed && bytes_ >= rule_.document_bytes;
    // Text without any blank lines: a line's end is the next best place.
    const bool too_long =
        rule_.document_bytes > 0 && bytes_ >= kLongestBlock * rule_.document_bytes;
    if (bytes_ > 0 && (at_block || too_long)) RETURN_IF_ERROR(EndDocument());
    if (!gap_.empty()) RETURN_IF_ERROR(Give(gap_));
    gap_.clear();
    blanks_ = 0;
    return Give(line);
  }
  absl::Status End() { return bytes_ > 0 ? EndDocument() : absl::OkStatus(); }

 private:
  absl::Status Give(const std::string& text) {
    bytes_ += static_cast<int64_t>(text.size());
    return sink_.Text(text);
  }
  absl::Status EndDocument() {
    bytes_ = 0;
    gap_.clear();
    return sink_.End();
  }

  const TextRule rule_;
  DocumentSink& sink_;
  int64_t bytes_ = 0;   // of the document at hand
  int64_t blanks_ = 0;  // lines since its last text
  std::string gap_;     // those lines: part of the document if it goes on
};

absl::Status LineError(const std::string& path, int64_t line, const std::string& why) {
  return absl::InvalidArgumentError(path + ":" + std::to_string(line) + ": " + why);
}

}  // namespace

absl::Status ReadText(const std::string& path, const TextRule& rule, DocumentSink& sink,
                      const ReadMeter& meter) {
  if (rule.blank_lines == 0 && rule.document_bytes == 0) return ReadWhole(path, sink, meter);
  BlockReader reader(rule, sink);
  RETURN_IF_ERROR(
      ForEachLine(path, meter, [&](const std::string& line) { return reader.Line(line); }));
  return reader.End();
}

absl::Status ReadJsonLines(const std::string& path, const std::string& field, DocumentSink& sink,
                           const ReadMeter& meter) {
  int64_t number = 0;
  return ForEachLine(path, meter, [&](const std::string& line) {
    ++number;
    if (IsBlank(line)) return absl::OkStatus();
    const absl::StatusOr<Json> json = ParseJson(line);
    if (!json.ok()) return LineError(path, number, std::string(json.status().message()));
    if (json->object() == nullptr) return LineError(path, number, "is not a JSON object");
    const Json* found = json->Find(field);
    if (found == nullptr) return LineError(path, number, "has no field '" + field + "'");
    if (found->text() == nullptr) {
      return LineError(path, number, "field '" + field + "' is not a string");
    }
    RETURN_IF_ERROR(sink.Text(*found->text()));
    return sink.End();
  });
}

}  // namespace mneme
