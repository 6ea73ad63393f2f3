// vocabulary.h5 of a corpus: what a model must know about its ids.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/corpus.h"

namespace mneme {

inline constexpr char kVocabularyName[] = "vocabulary.h5";

// Digest of all fields but `digest`.
std::string VocabularyDigest(const VocabularyInfo& vocabulary);

absl::Status WriteVocabulary(const std::string& path, const VocabularyInfo& vocabulary);
// DataLoss where the fields do not fit each other or the digest inside.
absl::StatusOr<VocabularyInfo> ReadVocabulary(const std::string& path);

}  // namespace mneme
