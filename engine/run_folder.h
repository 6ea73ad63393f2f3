// run.dir: who writes it, whether the run in it may go on, and the small files in it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/run.h"
#include "engine/checkpoint/checkpoint.h"
#include "parallel/world.h"

namespace mneme {

// Held by rank 0 for as long as a job writes the folder; the system drops it when the process dies,
// kill -9 included.
class FolderLock {
 public:
  // Waits a few seconds for a dying job. Unavailable naming the holder where another job keeps it.
  static absl::StatusOr<FolderLock> Take(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  ~FolderLock();

 private:
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_ = -1;
};

// Paths inside a run folder.
struct RunFolder {
  std::string dir;
  std::string config() const { return dir + "/config.yaml"; }
  std::string metrics() const { return dir + "/metrics.jsonl"; }
  std::string result() const { return dir + "/result.json"; }
  std::string documents() const { return dir + "/documents.json"; }
  std::string checkpoints() const { return dir + "/checkpoints"; }
  std::string tensorboard() const { return dir + "/tb"; }
  // Something was trained here: a checkpoint, a result or a metric exists.
  bool HoldsRun() const;
};

// Whether `config` may begin or go on in this folder, as run.resume and the folder's own
// config.yaml have it. Errors: InvalidArgument with a line a key that may not change, or naming a
// file that no run wrote and this one would write over; that of a checkpoints folder that cannot be
// listed. For one rank.
absl::Status CheckMayRun(const RunFolder& folder, const RunConfig& config);
// True where the newest sound checkpoint stands at the end of the last stage and result.json says
// so too. One that cannot be read is told by `warn`.
bool IsFinished(const RunFolder& folder, const RunConfig& config,
                const std::function<void(const std::string&)>& warn);

// The newest candidate of `path` that verifies: a checkpoint itself, a run folder or its
// checkpoints/. Each torn one passed over is told by `warn`. Errors: NotFound where there is no
// candidate; DataLoss naming every candidate where none is whole. Collective: the work of checksums
// is shared.
absl::StatusOr<std::string> FindCheckpoint(World& world, const std::string& path,
                                           const std::function<void(const std::string&)>& warn);

}  // namespace mneme
