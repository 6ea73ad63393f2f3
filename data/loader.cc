#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "configs/text.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

BatchView Row(const BatchView& view, int64_t row, int64_t length) {
  const auto at = static_cast<size_t>(row * length);
  const auto n = static_cast<size_t>(length);
  return {.tokens = view.tokens.subspan(at, n),
          .targets = view.targets.subspan(at, n),
          .positions = view.positions.subspan(at, n),
          .doc_start = view.doc_start.subspan(at, n)};
}

void CheckView(const BatchView& view, int64_t rows, int64_t length) {
  const auto size = static_cast<size_t>(rows * length);
  CHECK(view.tokens.size() == size && view.targets.size() == size &&
        view.positions.size() == size && view.doc_start.size() == size);
}

// Scratch of one row.
struct RowBuffer {
  explicit RowBuffer(int64_t length)
      : ids(static_cast<size_t>(length) + 1), documents(static_cast<size_t>(length) + 1) {}
  std::vector<int32_t> ids;
  std::vector<int64_t> documents;
};

absl::StatusOr<TokenStream> OpenStream(const std::string& folder, bool bos,
                                       int64_t sequence_length) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Corpus> corpus, Corpus::Open(folder));
  if (bos && corpus->vocabulary().bos < 0) {
    return absl::InvalidArgumentError("data.bos is true, but the vocabulary of corpus '" + folder +
                                      "' has no beginning-of-document id; set data.bos=false");
  }
  TokenStream stream(std::move(corpus), bos);
  if (stream.tokens() <= sequence_length) {
    return absl::InvalidArgumentError(
        "corpus '" + folder + "' has " + std::to_string(stream.tokens()) +
        " tokens, a sequence of length " + std::to_string(sequence_length) + " needs " +
        std::to_string(sequence_length + 1) + "; take more text or shorter sequences");
  }
  return stream;
}

std::string Describe(const VocabularyInfo& vocabulary) {
  return "'" + vocabulary.tokenizer + "' of " + std::to_string(vocabulary.size) + " ids, digest " +
         vocabulary.digest;
}

absl::Status CheckWeights(const DataConfig& config) {
  if (config.train.empty()) {
    return absl::InvalidArgumentError(
        "data.train names no corpus; prepare one with `mneme prepare` and name its folder");
  }
  if (config.weights.empty()) return absl::OkStatus();
  if (config.weights.size() != config.train.size()) {
    return absl::InvalidArgumentError("data.weights has " + std::to_string(config.weights.size()) +
                                      " numbers for the " + std::to_string(config.train.size()) +
                                      " corpora of data.train");
  }
  double sum = 0.0;
  for (const double weight : config.weights) {
    if (!std::isfinite(weight) || weight < 0.0) {
      return absl::InvalidArgumentError("data.weights holds " + NumberText(weight) +
                                        "; a share is a finite number of at least 0");
    }
    sum += weight;
  }
  if (sum > 0.0 && std::isfinite(sum)) return absl::OkStatus();
  return absl::InvalidArgumentError("data.weights are all 0; give at least one corpus a share");
}

}  // namespace

void TokenStream::Read(int64_t begin, absl::Span<int32_t> ids,
                       absl::Span<int64_t> documents) const {
  if (!bos_) return corpus_->Read(begin, ids, documents);
  CHECK_LE(begin, tokens() - static_cast<int64_t>(ids.size()));
  // The document that holds `begin`: the last whose begin is not after it.
  int64_t document = 0;
  for (int64_t end = corpus_->documents(); end - document > 1;) {
    const int64_t middle = document + (end - document) / 2;
    (Begin(middle) <= begin ? document : end) = middle;
  }
  for (size_t done = 0; done < ids.size(); ++document) {
    int64_t at = begin + static_cast<int64_t>(done);
    if (at == Begin(document)) {
      ids[done] = static_cast<int32_t>(corpus_->vocabulary().bos);
      documents[done] = document;
      ++done;
      ++at;
    }
    const int64_t end = document + 1 < corpus_->documents() ? Begin(document + 1) : tokens();
    const size_t count = std::min(ids.size() - done, static_cast<size_t>(end - at));
    corpus_->Read(at - document - 1, ids.subspan(done, count), documents.subspan(done, count));
    done += count;
  }
}

absl::StatusOr<std::unique_ptr<Loader>> Loader::Open(const DataConfig& config,
                                                     int64_t sequence_length) {
  CHECK_GT(sequence_length, 0);
  RETURN_IF_ERROR(CheckWeights(config));
  std::unique_ptr<Loader> loader(new Loader);
  loader->config_ = config;
  loader->sequence_length_ = sequence_length;
  std::vector<int64_t> tokens;
  for (const std::string& folder : config.train) {
    ASSIGN_OR_RETURN(TokenStream stream, OpenStream(folder, config.bos, sequence_length));
    tokens.push_back(stream.tokens());
    loader->streams_.push_back(std::move(stream));
    const VocabularyInfo& mine = loader->streams_.back().corpus().vocabulary();
    if (mine.digest != loader->vocabulary().digest) {
      return absl::InvalidArgumentError(
          "the corpora of data.train have different vocabularies: '" + config.train.front() +
          "' has " + Describe(loader->vocabulary()) + "; '" + folder + "' has " + Describe(mine));
    }
  }
  loader->order_ = std::make_unique<SampleOrder>(std::move(tokens), config.weights, sequence_length,
                                                 static_cast<uint64_t>(config.seed));
  return loader;
}

std::string Loader::digest() const {
  std::string text = "data";
  for (const TokenStream& stream : streams_) text += "\n" + stream.corpus().digest();
  for (const double weight : config_.weights) text += "\n" + ExactText(weight);
  text += "\n" + std::to_string(config_.seed) + " " + config_.doc_boundary + " " +
          (config_.bos ? "bos" : "");
  return BytesDigest(text);
}

int64_t Loader::tokens() const {
  int64_t sum = 0;
  for (const TokenStream& stream : streams_) sum += stream.tokens();
  return sum;
}

int64_t Loader::Fill(int64_t first, int64_t rows, BatchView view) const {
  CheckView(view, rows, sequence_length_);
  RowBuffer buffer(sequence_length_);
  int64_t counted = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const SamplePlace place = order_->At(first + row);
    streams_[static_cast<size_t>(place.corpus)].Read(place.begin, absl::MakeSpan(buffer.ids),
                                                     absl::MakeSpan(buffer.documents));
    counted += FillRow(buffer.ids, buffer.documents, config_.doc_boundary == "reset",
                       Row(view, row, sequence_length_));
  }
  return counted;
}

absl::StatusOr<std::unique_ptr<HeldOut>> HeldOut::Open(const HeldOutConfig& config,
                                                       const std::string& doc_boundary,
                                                       int64_t sequence_length, bool bos) {
  CHECK_GT(sequence_length, 0);
  // One target is enough: the last sequence may be short.
  ASSIGN_OR_RETURN(TokenStream stream, OpenStream(config.data, bos, 1));
  std::unique_ptr<HeldOut> held_out(new HeldOut);
  held_out->reset_ = doc_boundary == "reset";
  held_out->sequence_length_ = sequence_length;
  const int64_t all = (stream.tokens() - 1 + sequence_length - 1) / sequence_length;
  const int64_t count = config.sequences > 0 ? std::min(config.sequences, all) : all;
  for (int64_t i = 0; i < count; ++i) {
    // i · all / count without overflow.
    const int64_t index = all / count * i + all % count * i / count;
    held_out->begins_.push_back(index * sequence_length);
  }
  held_out->stream_ = std::make_unique<TokenStream>(std::move(stream));
  return held_out;
}

int64_t HeldOut::Fill(int64_t first, int64_t rows, BatchView view) const {
  CHECK_GE(first, 0);
  CheckView(view, rows, sequence_length_);
  RowBuffer buffer(sequence_length_);
  const VocabularyInfo& vocabulary = corpus().vocabulary();
  const int64_t filler = vocabulary.pad >= 0 ? vocabulary.pad : vocabulary.eos;
  int64_t counted = 0;
  for (int64_t row = 0; row < rows; ++row) {
    size_t count = 0;
    if (first + row < sequences()) {
      const int64_t begin = begins_[static_cast<size_t>(first + row)];
      count = static_cast<size_t>(std::min(stream_->tokens() - begin, sequence_length_ + 1));
      stream_->Read(begin, absl::MakeSpan(buffer.ids).first(count),
                    absl::MakeSpan(buffer.documents).first(count));
    }
    std::fill(buffer.ids.begin() + static_cast<ptrdiff_t>(count), buffer.ids.end(),
              static_cast<int32_t>(filler));
    std::fill(buffer.documents.begin() + static_cast<ptrdiff_t>(count), buffer.documents.end(), -1);
    counted += FillRow(buffer.ids, buffer.documents, reset_, Row(view, row, sequence_length_));
  }
  return counted;
}

std::vector<int64_t> HeldOut::TargetDocuments(int64_t sequence) const {
  CHECK(sequence >= 0 && sequence < sequences());
  const int64_t begin = begins_[static_cast<size_t>(sequence)];
  const auto count = static_cast<size_t>(std::min(stream_->tokens() - begin, sequence_length_ + 1));
  RowBuffer buffer(sequence_length_);
  std::fill(buffer.documents.begin(), buffer.documents.end(), -1);
  stream_->Read(begin, absl::MakeSpan(buffer.ids).first(count),
                absl::MakeSpan(buffer.documents).first(count));
  return {buffer.documents.begin() + 1, buffer.documents.end()};
}

double HeldOut::text_bytes() const {
  const auto n = static_cast<size_t>(sequence_length_);
  std::vector<int32_t> memory(4 * n);
  const auto part = [&](size_t i) { return absl::MakeSpan(memory).subspan(i * n, n); };
  const BatchView row = {
      .tokens = part(0), .targets = part(1), .positions = part(2), .doc_start = part(3)};
  int64_t counted = 0;
  int64_t bytes = 0;
  for (int64_t i = 0; i < sequences(); ++i) {
    counted += Fill(i, 1, row);
    for (const int32_t target : row.targets) bytes += target >= 0 && target < 256 ? 1 : 0;
  }
  if (corpus().vocabulary().tokenizer == "bytes") return static_cast<double>(bytes);
  return static_cast<double>(counted) * static_cast<double>(corpus().text_bytes()) /
         static_cast<double>(corpus().tokens());
}

int64_t FillRow(absl::Span<const int32_t> ids, absl::Span<const int64_t> documents, bool reset,
                BatchView row) {
  const size_t length = row.tokens.size();
  CHECK_EQ(ids.size(), length + 1);
  CHECK_EQ(documents.size(), length + 1);
  int64_t counted = 0;
  int32_t doc_start = 0;
  for (size_t i = 0; i < length; ++i) {
    if (reset && i > 0 && documents[i] != documents[i - 1]) doc_start = static_cast<int32_t>(i);
    const bool counts = documents[i + 1] >= 0 && (!reset || documents[i + 1] == documents[i]);
    row.tokens[i] = ids[i];
    row.targets[i] = counts ? ids[i + 1] : -1;
    row.positions[i] = static_cast<int32_t>(i);
    row.doc_start[i] = doc_start;
    counted += counts ? 1 : 0;
  }
  return counted;
}

}  // namespace mneme
