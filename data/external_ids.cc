#include "data/external_ids.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "configs/model.h"
#include "data/files.h"
#include "data/json_file.h"
#include "data/npy.h"
#include "data/vocabulary_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kPiece = int64_t{1} << 18;          // ids
constexpr int64_t kMostTextBytes = int64_t{1} << 50;  // shares of it are counted as doubles

absl::Status Bad(const std::string& why) { return absl::InvalidArgumentError(why); }

std::string Number(int64_t value) { return std::to_string(value); }

// Reads the map and says how many canonical ids it has.
absl::StatusOr<std::vector<int32_t>> ReadMap(const std::string& path, int64_t* canonical_size) {
  ASSIGN_OR_RETURN(const std::unique_ptr<NpyReader> reader, NpyReader::Open(path));
  if (reader->size() == 0) return Bad(path + ": the canonical map is empty");
  if (reader->size() > kMostVocabulary) {
    return Bad(path + ": the canonical map has " + Number(reader->size()) +
               " ids, a vocabulary at most " + Number(kMostVocabulary));
  }
  std::vector<int64_t> wide(static_cast<size_t>(reader->size()));
  RETURN_IF_ERROR(reader->Read(absl::MakeSpan(wide)));
  std::vector<int32_t> map;
  for (size_t i = 0; i < wide.size(); ++i) {
    if (wide[i] < 0 || wide[i] >= reader->size()) {
      return Bad(path + ": maps id " + std::to_string(i) + " to " + Number(wide[i]) +
                 "; canonical ids are at least 0 and below the map's length " +
                 Number(reader->size()));
    }
    map.push_back(static_cast<int32_t>(wide[i]));
  }
  *canonical_size = int64_t{*std::max_element(map.begin(), map.end())} + 1;
  return map;
}

absl::Status CheckId(const std::string& option, const std::string& name, int64_t id, int64_t least,
                     int64_t vocabulary) {
  if (id >= least && id < vocabulary) return absl::OkStatus();
  return Bad(option + ": the " + name + " id is " + Number(id) + "; it must be at least " +
             Number(least) + " and below the vocabulary's " + Number(vocabulary));
}

// Ids beyond the map are padding of the vocabulary: they go where pad goes (docs/mathematics.md).
absl::Status FillCanonical(const ExternalIds& ids, VocabularyInfo& vocabulary) {
  const auto size = static_cast<size_t>(vocabulary.size);
  if (ids.canonical.empty()) {
    vocabulary.canonical.resize(size);
    std::iota(vocabulary.canonical.begin(), vocabulary.canonical.end(), 0);
    vocabulary.canonical_size = vocabulary.size;
    return absl::OkStatus();
  }
  const size_t given = vocabulary.canonical.size();
  if (given > size) {
    return Bad(ids.canonical + ": maps " + std::to_string(given) + " ids, the vocabulary has " +
               std::to_string(size));
  }
  if (given == size) return absl::OkStatus();
  if (vocabulary.pad < 0 || vocabulary.pad >= static_cast<int64_t>(given)) {
    return Bad(ids.canonical + ": maps " + std::to_string(given) + " ids of the vocabulary's " +
               std::to_string(size) +
               "; the others go where the pad id goes: name a pad id below " +
               std::to_string(given));
  }
  vocabulary.canonical.resize(size, vocabulary.canonical[static_cast<size_t>(vocabulary.pad)]);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VocabularyInfo> ExternalVocabulary(const ExternalIds& ids) {
  if (ids.vocabulary < 0 || ids.vocabulary > kMostVocabulary) {
    return Bad("--vocabulary is " + Number(ids.vocabulary) +
               "; it must be at least 1 and at most " + Number(kMostVocabulary));
  }
  VocabularyInfo vocabulary;
  vocabulary.tokenizer = "external";
  vocabulary.eos = ids.eos;
  vocabulary.bos = ids.bos;
  vocabulary.pad = ids.pad;
  vocabulary.size = ids.vocabulary;
  if (!ids.canonical.empty()) {
    ASSIGN_OR_RETURN(vocabulary.canonical, ReadMap(ids.canonical, &vocabulary.canonical_size));
    if (vocabulary.size == 0) vocabulary.size = static_cast<int64_t>(vocabulary.canonical.size());
  }
  if (vocabulary.size == 0) {
    return Bad(
        "token ids need the size of their vocabulary: give --vocabulary, or a map with "
        "--canonical");
  }
  if (vocabulary.eos == -1) return Bad("token ids need their end-of-document id: give --eos");
  RETURN_IF_ERROR(CheckId("--eos", "end-of-document", vocabulary.eos, 0, vocabulary.size));
  RETURN_IF_ERROR(CheckId("--bos", "beginning-of-document", vocabulary.bos, -1, vocabulary.size));
  RETURN_IF_ERROR(CheckId("--pad", "pad", vocabulary.pad, -1, vocabulary.size));
  if (ids.text_bytes <= 0) {
    return Bad(
        "token ids need the number of UTF-8 bytes of their text, for bits per byte: give "
        "--text-bytes");
  }
  if (ids.text_bytes > kMostTextBytes) {
    return Bad("--text-bytes is " + Number(ids.text_bytes) + "; it must be at most " +
               Number(kMostTextBytes));
  }
  RETURN_IF_ERROR(FillCanonical(ids, vocabulary));
  if (!ids.tokenizer_json.empty()) {
    ASSIGN_OR_RETURN(vocabulary.tokenizer_json, ReadJsonText(ids.tokenizer_json));
  }
  vocabulary.digest = VocabularyDigest(vocabulary);
  return vocabulary;
}

absl::Status ReadExternalIds(const std::string& path, const VocabularyInfo& vocabulary,
                             DocumentRouter& router, const ReadMeter& meter) {
  ASSIGN_OR_RETURN(const std::unique_ptr<NpyReader> reader, NpyReader::Open(path));
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  std::vector<int64_t> wide;
  std::vector<int32_t> piece;
  bool inside = false;  // a document
  for (int64_t done = 0; done < reader->size();) {
    const int64_t count = std::min(kPiece, reader->size() - done);
    wide.resize(static_cast<size_t>(count));
    RETURN_IF_ERROR(reader->Read(absl::MakeSpan(wide)));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = wide[static_cast<size_t>(i)];
      if (id < 0 || id >= vocabulary.size) {
        return Bad(path + ": id " + Number(id) + " at position " + Number(done + i) +
                   " is outside the vocabulary of " + Number(vocabulary.size));
      }
      piece.push_back(static_cast<int32_t>(id));
      inside = id != vocabulary.eos;
      if (inside) continue;
      RETURN_IF_ERROR(router.Append(piece));
      RETURN_IF_ERROR(router.EndDocument(-1));
      piece.clear();
    }
    RETURN_IF_ERROR(router.Append(piece));
    piece.clear();
    done += count;
    if (meter) meter(count * (bytes / std::max<int64_t>(1, reader->size())));
  }
  return inside ? router.EndDocument(-1) : absl::OkStatus();
}

}  // namespace mneme
