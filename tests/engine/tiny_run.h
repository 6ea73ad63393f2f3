// Whole runs at the smallest useful size: corpora in a temporary folder, a config file, and what
// came of a run.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "configs/run.h"
#include "engine/report/report.h"
#include "engine/trainer.h"
#include "kernels/kernels.h"
#include "parallel/world.h"

namespace mneme {

// A folder of its own, removed with everything in it.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Words of a small grammar, the same for a seed: learnable, and with document ends.
std::string MakeText(uint64_t seed, int64_t bytes);
// Prepares `text` as a byte corpus; blank lines end documents.
void PrepareText(const std::string& text, const std::string& folder);

// Writes a tiny run file in `folder`, its corpora beside it (once), and reads it with overrides on
// top: 16 experts, Engram in block 1, two streams, f64, 12 sequences x 384, bias update on.
RunConfig TinyRun(const std::string& folder, const std::vector<std::string>& overrides);

struct Outcome {
  absl::Status status;
  int exit_code = -1;
  std::string message;
  std::vector<StepReport> steps;  // made in this call, as rank 0 saw them
  std::vector<std::string> said;  // lines for people
};
Outcome TrainThreads(int ranks, const RunConfig& config, int64_t stop_at_step = -1);
Outcome TrainOn(World& world, const RunConfig& config, int64_t stop_at_step = -1);

std::vector<double> Losses(const Outcome& outcome);
// What every step told under this name (StepReport::more); shorter where some did not.
std::vector<double> Told(const Outcome& outcome, const std::string& name);
// Every value, moment, row and position of a checkpoint by name, as bytes: equal exactly where the
// states are, on whatever layout they were written.
std::vector<std::pair<std::string, std::string>> CheckpointState(const std::string& path);
// Reads the checkpoint `from` into the model and optimizer of `config` on this world's layout,
// computed by `kernels`, and saves it anew in the folder `to`. Returns what kernels read of every
// piece that this rank has, as bytes, by name. Collective.
std::map<std::string, std::string> LoadAndSave(World& world, const Kernels& kernels, Device device,
                                               const RunConfig& config, const std::string& from,
                                               const std::string& to);
// What a model in bf16 reads of the values in CheckpointState, `reads` being those of a rank that
// holds them: each of its pieces as it stands there or rounded, whichever has its number of bytes.
void ExpectRoundedFrom(const std::vector<std::pair<std::string, std::string>>& state,
                       const std::map<std::string, std::string>& reads);
// step -> {loss, grad_norm, tokens, learning_rate} lines of metrics.jsonl, times left out.
std::vector<std::string> MetricsState(const std::string& path);

}  // namespace mneme
