// manifest.json of a corpus: what its files must be, and where they came from
// (docs/corpus_format.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

// A file of the corpus, as it must be found.
struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  std::string digest;  // FileDigest
};

struct ManifestShard {
  ManifestFile file;
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t text_bytes = 0;  // 0 where ids were made elsewhere
  std::string content;  // digest of ids and document begins alone, whatever HDF5 puts around them
};

struct Manifest {
  std::string vocabulary_digest;
  ManifestFile vocabulary;
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t text_bytes = 0;
  std::vector<ManifestShard> shards;
  // Where it came from: compared when the same command is typed again. Not part of the corpus's
  // digest.
  std::vector<ManifestFile> inputs;
  std::string options;
};

inline constexpr char kManifestName[] = "manifest.json";

// The text of the file. It ends with a digest of itself, so that no flipped bit goes unseen.
std::string ManifestText(const Manifest& manifest);
// NotFound, or DataLoss naming the file: not a manifest, changed, of another version, numbers that
// do not add up.
absl::StatusOr<Manifest> ReadManifest(const std::string& folder);
// Whether the folder's manifest says that it is a corpus's, damaged or of another version as it may
// be.
bool HasCorpusManifest(const std::string& folder);
// Names the data whatever its path: vocabulary, ids and documents.
std::string CorpusDigest(const Manifest& manifest);

}  // namespace mneme
