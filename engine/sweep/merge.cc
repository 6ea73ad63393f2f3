// Finished cells of another folder, or of a bundle, taken over by key.
#include <filesystem>
#include <map>
#include <sstream>

#include "configs/json_text.h"
#include "data/files.h"
#include "engine/sweep/bundle.h"
#include "engine/sweep/cells.h"
#include "engine/sweep/shared_files.h"
#include "engine/sweep/sweep_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

// What a finished cell leaves to another sweep.
struct Finished {
  std::string record, documents;
  std::string config;  // empty: a bundle has none
  double loss = 0.0;
};
using FinishedCells = std::map<std::string, Finished>;  // by key

// Those of the grid in a sweep's folder.
absl::StatusOr<FinishedCells> InFolder(const SweepGrid& grid, const std::string& other) {
  FinishedCells found;
  for (const SweepCell& cell : grid.cells) {
    const CellFolder there{other + "/cells/" + cell.key};
    ASSIGN_OR_RETURN(const bool done, LookFor(there.done()));
    if (!done) continue;
    Finished& finished = found[cell.key];
    ASSIGN_OR_RETURN(finished.record, ReadFileBytes(there.done()));
    ASSIGN_OR_RETURN(const CellResult record, ReadRecord(there, cell));
    finished.loss = record.validation_loss;
    RETURN_IF_ERROR(CheckDocuments(there, record));
    finished.documents = ReadFileBytes(there.documents()).value_or("");
    finished.config = ReadFileBytes(there.config()).value_or("");
  }
  return found;
}

// All of a bundle, whose files must be what its manifest says.
absl::StatusOr<FinishedCells> InBundle(const std::string& bundle) {
  RETURN_IF_ERROR(CheckDigests(bundle).status());
  const std::string path = bundle + "/results.jsonl";
  ASSIGN_OR_RETURN(const std::string lines, ReadFileBytes(path));
  ASSIGN_OR_RETURN(const CellTable table, ReadBundleCells(bundle));
  FinishedCells found;
  std::istringstream in(lines);
  for (const CellResult& cell : table.cells) {
    Finished& finished = found[cell.key];
    std::getline(in, finished.record);
    finished.record =
        WithColumns(finished.record + "\n",
                    {{"documents", JsonString("cells/" + cell.key + "/documents.json")}});
    finished.documents = DocumentsJson(cell.documents) + "\n";
    finished.loss = cell.validation_loss;
  }
  return found;
}

}  // namespace

absl::StatusOr<std::string> MergeFolder(const SweepConfig& sweep, const SweepGrid& grid,
                                        const std::string& other) {
  ASSIGN_OR_RETURN(const bool folder, LookFor(other + "/cells"));
  if (!folder && !IsThere(other + "/MANIFEST")) {
    return absl::NotFoundError(other +
                               ": is neither the folder of a sweep, which has cells/, nor a "
                               "bundle, which has a MANIFEST");
  }
  ASSIGN_OR_RETURN(const FinishedCells theirs, folder ? InFolder(grid, other) : InBundle(other));
  int64_t taken = 0, had = 0;
  for (const SweepCell& cell : grid.cells) {
    const auto found = theirs.find(cell.key);
    if (found == theirs.end()) continue;
    const CellFolder here = FolderOf(sweep, cell);
    if (IsThere(here.done())) {
      RETURN_IF_ERROR(CheckFinished(sweep, cell));
      ASSIGN_OR_RETURN(const CellResult record, ReadRecord(here, cell));
      const double mine = record.validation_loss;
      if (mine != found->second.loss) {
        return absl::FailedPreconditionError(
            other + ": cell " + cell.key + " has validation_loss " +
            JsonNumber(found->second.loss) + ", " + here.done() + " has " + JsonNumber(mine) +
            ": one cell, two numbers; take away the folder of the one that is wrong");
      }
      ++had;
      continue;
    }
    std::error_code error;
    fs::create_directories(here.dir, error);
    for (const auto& [text, to] : {std::pair{found->second.documents, here.documents()},
                                   {found->second.config, here.config()}}) {
      if (!text.empty()) RETURN_IF_ERROR(ReplaceFile(to, text));
    }
    ASSIGN_OR_RETURN(const bool made, CreateExclusively(here.done(), found->second.record));
    taken += made;
  }
  return other + ": " + std::to_string(taken) + " finished cells taken over, " +
         std::to_string(had) + " were here already";
}

}  // namespace mneme
