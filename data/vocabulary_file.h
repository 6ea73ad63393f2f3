// vocabulary.h5 of a corpus: what a model must know about its ids.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/corpus.h"

namespace mneme {

inline constexpr char kVocabularyName[] = "vocabulary.h5";

// Whether eos lies inside the vocabulary, bos and pad too where they are (-1: there is none), and
// canonical ids in [0, canonical_size), which is at least 1 and no larger than the vocabulary.
bool VocabularyFits(const VocabularyInfo& vocabulary);
// Digest of all fields but `digest`: 16 hex digits.
std::string VocabularyDigest(const VocabularyInfo& vocabulary);

// `path`: of the file itself. Overwrites it; synced. Errors: files.
absl::Status WriteVocabulary(const std::string& path, const VocabularyInfo& vocabulary);
// DataLoss where the fields do not fit each other or the digest inside. InvalidArgument where there
// are more ids than a model takes (kMostVocabulary).
absl::StatusOr<VocabularyInfo> ReadVocabulary(const std::string& path);

}  // namespace mneme
