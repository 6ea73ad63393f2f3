// The folder that the workers of a sweep share: what each cell has come to, and tables of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sweep/cells.h"
#include "engine/sweep/grid.h"
#include "engine/sweep/lease.h"

namespace mneme {

// folder/cells/KEY/: config.yaml, log.txt, run/ (a run folder), lease.N, failed.N.json, alone where
// it is not to be run beside others, and documents.json and done.json once it is finished.
struct CellFolder {
  std::string dir;
  std::string config() const { return dir + "/config.yaml"; }
  std::string log() const { return dir + "/log.txt"; }
  std::string run() const { return dir + "/run"; }
  std::string documents() const { return dir + "/documents.json"; }
  std::string done() const { return dir + "/done.json"; }
  // There once its process ended with the cells beside it; says why.
  std::string alone() const { return dir + "/alone"; }
  std::string failed(int64_t attempt) const {
    return dir + "/failed." + std::to_string(attempt) + ".json";
  }
};
// Whether anything stands under that name: a link that leads nowhere is there, and reading it says
// what is wrong. Errors: that nobody can look (permissions, a link to itself on the way).
absl::StatusOr<bool> LookFor(const std::string& path);
// The same where CheckSweepFolder has looked: what cannot be looked at is not there.
bool IsThere(const std::string& path);
CellFolder FolderOf(const SweepConfig& sweep, const SweepCell& cell);

struct CellState {
  bool done = false;
  int64_t failures = 0;
  bool hopeless = false;  // the last one would come again: no further attempt of as many is made
  LeaseState lease;
  double step = 0.0;  // of the run, by its metrics
  double steps = 0.0;
  double validation_loss = 0.0;  // where done
  double seconds = 0.0;          // of a step, by the latest metrics; 0: not known
  std::string reason;            // of the last failure; where done: why its record is none
};
CellState StateOf(const SweepConfig& sweep, const SweepCell& cell);
// It is not done, and is not tried again unless run.attempts grows.
bool HasFailed(const SweepConfig& sweep, const CellState& state);

// Whether the folder is a sweep's, or may become one: before there are cells, none of the files
// that a sweep writes over is there. FailedPrecondition naming it otherwise; the error of a folder
// of a cell that cannot be looked into, which would look like one that is not finished.
absl::Status CheckSweepFolder(const SweepConfig& sweep, const SweepGrid& grid);
// Whether every column that the fit section names is one that the results will have.
absl::Status CheckFitColumns(const SweepConfig& sweep, const SweepGrid& grid);
// Keeps the fit section and the file beside the first cell; later calls leave them. Errors: files.
absl::Status KeepSettings(const SweepConfig& sweep);
// What of the fit section has changed since, a line each; empty where nothing has.
std::vector<std::string> ChangedSettings(const SweepConfig& sweep);

// Whether the finished run is the cell's: its config but for what changes no number (CellText), and
// its steps. Errors: FailedPrecondition naming the first difference; DataLoss of a run that cannot
// be read.
absl::Status CheckTrained(const SweepConfig& sweep, const SweepCell& cell);
// The line of results.jsonl: axes, rho, seed, losses, parameters, tokens, epochs, residuals, speed.
// Reads the finished run. Errors: DataLoss naming what is missing in it.
absl::StatusOr<std::string> CellRecord(const SweepConfig& sweep, const SweepCell& cell,
                                       int64_t failures);
// The done.json of a folder, which must be the record of `cell`: its key, seed, documents, and its
// rho where both have one. Errors: files; DataLoss naming the file and what is wrong.
absl::StatusOr<CellResult> ReadRecord(const CellFolder& folder, const SweepCell& cell);
// Losses by document beside that record, whose mean is its loss; OK where it has none. Errors:
// files; DataLoss naming the file.
absl::Status CheckDocuments(const CellFolder& folder, const CellResult& record);
// OK where the cell is not finished, or its record and its losses by document are. DataLoss naming
// the file, what is wrong and what to do.
absl::Status CheckFinished(const SweepConfig& sweep, const SweepCell& cell);
// The record that a cell was finished with, its axes as this sweep has them: it may have been run
// for another one. Nothing where it is not finished. Errors: DataLoss naming the done.json that is
// no record.
absl::StatusOr<std::optional<std::string>> RecordOf(const SweepConfig& sweep,
                                                    const SweepCell& cell);
// Takes the finished run's losses by document into the cell's folder, rounded to 1e-4 nats. Errors:
// DataLoss where the run left none.
absl::Status KeepDocuments(const SweepConfig& sweep, const SweepCell& cell);

// results.jsonl and results.csv from all finished cells. Returns how many.
absl::StatusOr<int64_t> WriteResults(const SweepConfig& sweep, const SweepGrid& grid);

// Finished cells in the folder that are none of this grid's: another version of the file, or
// another sweep, left them. They stay, and are in no result.
int64_t OtherCells(const SweepConfig& sweep, const SweepGrid& grid);

// Takes over finished cells by key from `other`: the folder or a bundle of this sweep, or of one
// that has some cells in common with it. Returns a line for people. Errors: a cell that both have
// with different losses (FailedPrecondition), files; DataLoss for a bundle that has changed;
// NotFound where `other` is neither.
absl::StatusOr<std::string> MergeFolder(const SweepConfig& sweep, const SweepGrid& grid,
                                        const std::string& other);

// The table of --status and the time left; as text or JSON. The time: the steps that are left, at
// the mean pace of the cells that ran, over as many workers as there are cells whose lease is not
// free.
std::string StatusText(const SweepConfig& sweep, const SweepGrid& grid);
std::string StatusJson(const SweepConfig& sweep, const SweepGrid& grid);

}  // namespace mneme
