#include "data/vocabulary_file.h"

#include <array>
#include <utility>

#include "configs/model.h"
#include "data/hdf5_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr char kIdsName[] = "ids";              // [5] i64: size, eos, bos, pad, canonical_size
constexpr char kCanonicalName[] = "canonical";  // [size] i32
constexpr char kKindName[] = "tokenizer";
constexpr char kJsonName[] = "tokenizer_json";
constexpr char kDigestName[] = "digest";

bool IsId(int64_t id, const VocabularyInfo& vocabulary) { return id >= -1 && id < vocabulary.size; }

}  // namespace

bool VocabularyFits(const VocabularyInfo& vocabulary) {
  for (const int32_t id : vocabulary.canonical) {
    if (id < 0 || id >= vocabulary.canonical_size) return false;
  }
  return vocabulary.size > 0 && vocabulary.canonical_size > 0 &&
         vocabulary.canonical_size <= vocabulary.size && vocabulary.eos >= 0 &&
         IsId(vocabulary.eos, vocabulary) && IsId(vocabulary.bos, vocabulary) &&
         IsId(vocabulary.pad, vocabulary);
}

std::string VocabularyDigest(const VocabularyInfo& vocabulary) {
  std::string text = "vocabulary";
  for (const int64_t id : {vocabulary.size, vocabulary.eos, vocabulary.bos, vocabulary.pad,
                           vocabulary.canonical_size}) {
    text += " " + std::to_string(id);
  }
  text += "\n" + vocabulary.tokenizer + "\n" + BytesDigest(vocabulary.tokenizer_json) + "\n";
  text.append(reinterpret_cast<const char*>(vocabulary.canonical.data()),
              vocabulary.canonical.size() * sizeof(int32_t));
  return BytesDigest(text);
}

absl::Status WriteVocabulary(const std::string& path, const VocabularyInfo& vocabulary) {
  ASSIGN_OR_RETURN(const std::unique_ptr<H5File> file, H5File::Create(path));
  const std::array<int64_t, 5> ids = {vocabulary.size, vocabulary.eos, vocabulary.bos,
                                      vocabulary.pad, vocabulary.canonical_size};
  RETURN_IF_ERROR(file->Write(kIdsName, H5Type::kI64, {5}, ids.data()));
  RETURN_IF_ERROR(file->Write(kCanonicalName, H5Type::kI32,
                              {static_cast<int64_t>(vocabulary.canonical.size())},
                              vocabulary.canonical.data()));
  RETURN_IF_ERROR(file->WriteText(kKindName, vocabulary.tokenizer));
  RETURN_IF_ERROR(file->WriteText(kJsonName, vocabulary.tokenizer_json));
  RETURN_IF_ERROR(file->WriteText(kDigestName, vocabulary.digest));
  return file->Close();
}

absl::StatusOr<VocabularyInfo> ReadVocabulary(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<H5File> file, H5File::Open(path));
  std::array<int64_t, 5> ids;
  RETURN_IF_ERROR(file->Read(kIdsName, H5Type::kI64, ids.data(), sizeof(ids)));
  VocabularyInfo vocabulary;
  vocabulary.size = ids[0];
  vocabulary.eos = ids[1];
  vocabulary.bos = ids[2];
  vocabulary.pad = ids[3];
  vocabulary.canonical_size = ids[4];
  if (vocabulary.size > kMostVocabulary) {
    return absl::InvalidArgumentError(path + ": the vocabulary has " +
                                      std::to_string(vocabulary.size) + " ids, a model's at most " +
                                      std::to_string(kMostVocabulary) +
                                      "; prepare the corpus again with a smaller --vocabulary");
  }
  ASSIGN_OR_RETURN(const H5DatasetInfo info, file->Info(kCanonicalName));
  if (info.shape != std::vector<int64_t>{vocabulary.size}) {
    return absl::DataLossError(path + ": the canonical map does not have the vocabulary's " +
                               std::to_string(vocabulary.size) + " ids");
  }
  vocabulary.canonical.resize(static_cast<size_t>(vocabulary.size));
  RETURN_IF_ERROR(
      file->Read(kCanonicalName, H5Type::kI32, vocabulary.canonical.data(), vocabulary.size * 4));
  ASSIGN_OR_RETURN(vocabulary.tokenizer, file->ReadText(kKindName));
  ASSIGN_OR_RETURN(vocabulary.tokenizer_json, file->ReadText(kJsonName));
  ASSIGN_OR_RETURN(vocabulary.digest, file->ReadText(kDigestName));
  if (!VocabularyFits(vocabulary))
    return absl::DataLossError(path + ": ids lie outside the vocabulary");
  if (VocabularyDigest(vocabulary) != vocabulary.digest) {
    return absl::DataLossError(path + ": does not match the digest it holds");
  }
  return vocabulary;
}

}  // namespace mneme
