// The table of contents of a checkpoint: manifest.json (docs/checkpoint_format.md). Knows JSON, no
// tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"

namespace mneme {

// Rows [begin, end) of one quantity of one piece, as a whole dataset of one file. Here and below a
// manifest that was read has 0 <= begin <= end <= rows, and bytes of a whole in 64 bits.
struct StoredSlice {
  std::string name;  // piece: "blocks.3.moe.experts.17.up"
  std::string kind;  // "value", "adam_m", "adam_v", "muon_momentum", "router_bias"
  std::string file;
  std::string dataset;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t rows = 0;  // of the whole piece
  int64_t cols = 0;
};

// Materialised rows of one Engram table that one rank kept the state of: datasets ids, values, m, v
// under `group`. A manifest that was read has tables of at least one row and one column, each of
// one shape in all its parts, and 0 <= count <= rows, 0 <= phase < stride.
struct StoredTable {
  std::string name;
  std::string file;
  std::string group;
  int64_t count = 0;  // rows written
  int64_t rows = 0;   // of the whole table
  int64_t width = 0;
  int64_t phase = 0;  // every id here is phase modulo stride
  int64_t stride = 1;
};

struct StoredFile {
  int64_t bytes = 0;
  std::string digest;  // XXH3-64 of the bytes, 16 hex digits
};

struct CheckpointManifest {
  RunPosition position;
  std::string dtype;    // "f32" or "f64"
  bool moments = true;  // false: weights alone; an optimizer begins anew
  int ranks = 0;        // that wrote it
  std::string data_digest;
  VocabularyInfo vocabulary;  // canonical and tokenizer_json stand in files of their own
  std::map<std::string, StoredFile> files;
  std::vector<StoredSlice> slices;
  std::vector<StoredTable> tables;
};

// JSON with a digest of itself, so that a flipped bit in the manifest shows too.
std::string DumpCheckpointManifest(const CheckpointManifest& manifest);
// DataLoss where the text is not a whole manifest, of a version that this program does not know, or
// has shapes that no checkpoint has.
absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text,
                                                           const std::string& path);
absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(const std::string& folder);

// What one rank wrote, on its way to the rank that writes the manifest.
std::string DumpPart(const CheckpointManifest& part);
void MergePart(const std::string& text, CheckpointManifest& whole);

}  // namespace mneme
