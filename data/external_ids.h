// Token ids made elsewhere: their vocabulary, and their documents.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/corpus.h"
#include "data/document_router.h"
#include "data/documents.h"
#include "data/prepare.h"

namespace mneme {

// From what the user says. InvalidArgument for what is missing or does not fit, with both numbers.
absl::StatusOr<VocabularyInfo> ExternalVocabulary(const ExternalIds& ids);

// path: a .npy file (NpyReader). Documents end at the end-of-document id, which belongs to them,
// and at the end of the file. InvalidArgument names the first id outside the vocabulary and its
// place.
absl::Status ReadExternalIds(const std::string& path, const VocabularyInfo& vocabulary,
                             DocumentRouter& router, const ReadMeter& meter);

}  // namespace mneme
