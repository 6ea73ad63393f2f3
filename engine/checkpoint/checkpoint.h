// Everything needed to go on, in HDF5: one file a writer, a manifest last, published by rename
// (docs/checkpoint_format.md). Any layout -> any layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/corpus.h"
#include "engine/update/optimizer.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/parameter.h"
#include "parallel/world.h"

namespace mneme {

// Where a run stands.
struct RunPosition {
  int64_t step = 0;          // updates done over all stages, skipped ones included
  int64_t updates = 0;       // updates that moved something: the bias corrections count them
  int64_t stage = 0;         // index
  int64_t stage_step = 0;    // updates of this stage done
  int64_t stage_sample = 0;  // next sample of this stage's data order: the loader's state
  int64_t tokens = 0;        // trained on, over all stages
  int64_t skipped_in_a_row = 0;
  std::vector<double> recent_losses;  // window of the outlier rule
};

struct CheckpointPart {
  ParameterStore* store = nullptr;
  Optimizer* optimizer = nullptr;  // may be null on load: weights only
  Stack* stack = nullptr;          // tables and router states
};

// What names the run and its data beside the numbers.
struct CheckpointMeta {
  std::string config;         // resolved YAML
  std::string data_digest;    // of every stage's data, whatever its paths
  VocabularyInfo vocabulary;  // what evaluation and generation need; tokenizer.json included
};

// Writes <folder>/step-N (by way of a hidden folder beside it) and returns its path. Collective;
// the same status everywhere; a failed save leaves nothing behind and touches no older checkpoint.
absl::StatusOr<std::string> SaveCheckpoint(World& world, Context& context,
                                           const std::string& folder, const RunPosition& position,
                                           const CheckpointMeta& meta, const CheckpointPart& part);

// Fills `part` on this layout from a verified checkpoint. Collective; the same status everywhere.
// Errors: FailedPrecondition (another model), DataLoss (unreadable after all); `part` is then
// undefined.
absl::StatusOr<RunPosition> LoadCheckpoint(World& world, Context& context, const std::string& path,
                                           const CheckpointPart& part);
// From the manifest alone, for one rank.
absl::StatusOr<CheckpointMeta> ReadCheckpointMeta(const std::string& path);
absl::StatusOr<RunPosition> ReadCheckpointPosition(const std::string& path);

// Every step-N of a checkpoints folder, newest first, whole or not.
std::vector<std::string> ListCandidates(const std::string& folder);
// Those whose manifest is sound and whose files have their sizes, newest first.
std::vector<std::string> ListCheckpoints(const std::string& folder);
// The newest, which must be whole. NotFound where none is; DataLoss where only older ones are.
absl::StatusOr<std::string> NewestCheckpoint(const std::string& folder);
// Manifest, sizes and checksums of every file. DataLoss with the file that fails. Collective: each
// rank checks its share, all return the same status.
absl::Status VerifyCheckpoint(World& world, const std::string& path);
// Deletes what keep-last and milestones do not keep, and leftovers of interrupted saves. Counts
// from step `newest` down: later ones, torn or left behind by a fallback, save nobody.
void PruneCheckpoints(const std::string& folder, int64_t newest, int64_t keep_last,
                      int64_t milestone_every);

}  // namespace mneme
