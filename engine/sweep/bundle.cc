#include "engine/sweep/bundle.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <sstream>

#include "configs/json_text.h"
#include "configs/read.h"
#include "configs/text.h"
#include "data/files.h"
#include "data/staging.h"
#include "engine/sweep/fit.h"
#include "engine/sweep/publish.h"
#include "engine/sweep/sweep_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNoFit = "its cells are too few for a fit";

std::string NamesJson(const std::vector<std::string>& names) {
  std::vector<std::string> texts;
  for (const std::string& name : names) texts.push_back(JsonString(name));
  return JsonArray(texts);
}

// JSON is YAML: the reader of configs reads it back.
std::string FitConfigJson(const FitConfig& config) {
  std::vector<std::string> excluded;
  for (const Exclusion& exclusion : config.exclude) {
    excluded.push_back(JsonObject()
                           .Add("key", exclusion.key)
                           .Add("value", exclusion.value)
                           .Add("why", exclusion.why)
                           .Text());
  }
  JsonObject json;
  json.Add("coordinate", config.coordinate).Add("level", config.level);
  json.Add("held_out", config.held_out).Add("baseline", config.baseline);
  json.AddRaw("by", NamesJson(config.by)).AddRaw("levels", NamesJson(config.levels));
  return json.AddRaw("exclude", JsonArray(excluded)).Text() + "\n";
}

absl::StatusOr<FitConfig> ReadFitConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path));
  std::vector<Complaint> complaints;
  const Tree tree = ParseYaml(text, {path, 0, ""}, complaints);
  FitConfig config;
  std::map<std::string, std::string> places;
  if (complaints.empty()) ReadSection(Reflector::Of(config), tree, "", "", places, complaints);
  if (complaints.empty()) return config;
  return absl::DataLossError(complaints.front().Text());
}

// Relative paths of all but folders and the manifest, sorted.
absl::StatusOr<std::vector<std::string>> FilesOf(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().lexically_relative(folder).string();
    const bool own = name != "MANIFEST" && name != kStagingLock;
    std::error_code unknown;  // a link to itself: reading it will say so
    if (own && !it->is_directory(unknown)) files.push_back(name);
  }
  if (error) return FileError(folder, "read", error.value());
  std::sort(files.begin(), files.end());
  return files;
}

// Nothing where the cells are too few for one.
absl::StatusOr<std::optional<SweepFit>> FitOf(const std::string& folder) {
  ASSIGN_OR_RETURN(const FitConfig config, ReadFitConfig(folder + "/fit_config.json"));
  ASSIGN_OR_RETURN(const CellTable table, ReadBundleCells(folder));
  absl::StatusOr<SweepFit> fit = FitCells(table, config);
  if (fit.ok()) return std::move(*fit);
  if (absl::IsFailedPrecondition(fit.status())) return std::nullopt;
  return fit.status();
}

absl::Status CopyFile(const std::string& from, const std::string& to, const std::string& name) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFileBytes(from + "/" + name));
  return WriteFileAtomically(to + "/" + name, bytes);
}

// The cells' lines, and one file of all documents.
absl::Status CopyCells(const SweepConfig& sweep, const SweepGrid& grid, const std::string& folder) {
  std::string lines;
  std::vector<std::pair<std::string, Documents>> documents;
  for (const SweepCell& cell : grid.cells) {
    ASSIGN_OR_RETURN(const std::optional<std::string> record, RecordOf(sweep, cell));
    if (!record.has_value()) continue;
    lines += WithColumns(*record, {{"documents", JsonString("documents.json")}});
    ASSIGN_OR_RETURN(Documents own, ReadDocuments(FolderOf(sweep, cell).documents()));
    documents.emplace_back(cell.key, std::move(own));
  }
  if (lines.empty())
    return absl::FailedPreconditionError(sweep.folder + ": no cell is finished: nothing to pack");
  RETURN_IF_ERROR(
      WriteFileAtomically(folder + "/documents.json", PackedDocuments(documents) + "\n"));
  return WriteFileAtomically(folder + "/results.jsonl", lines);
}

// Into a folder that is there. cells: none where there is no fit.
absl::Status Fill(const SweepConfig& sweep, const SweepGrid& grid, const std::string& folder,
                  std::optional<int64_t>& cells, size_t& count) {
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/sweep.yaml", sweep.text));
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/fit_config.json", FitConfigJson(sweep.fit)));
  RETURN_IF_ERROR(CopyCells(sweep, grid, folder));
  ASSIGN_OR_RETURN(const std::optional<SweepFit> fit, FitOf(folder));
  RETURN_IF_ERROR(CopyFile(sweep.folder, folder, "results.csv"));
  if (fit.has_value()) {
    RETURN_IF_ERROR(CopyFile(sweep.folder, folder, "report.html"));
    RETURN_IF_ERROR(WriteFileAtomically(folder + "/fit.json", FitJson(*fit) + "\n"));
    RETURN_IF_ERROR(WriteFigures(*fit, folder + "/").status());
  }
  std::string manifest;
  ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOf(folder));
  for (const std::string& name : files) {
    ASSIGN_OR_RETURN(const std::string digest, FileDigest(folder + "/" + name));
    manifest += digest + "  " + name + "\n";
  }
  if (fit.has_value()) cells = fit->cells;
  count = files.size();
  return WriteFileAtomically(folder + "/MANIFEST", manifest);
}

// What Fill makes, and its files while they are written.
bool IsBundlePath(const std::string& path, bool is_folder) {
  if (is_folder || path.find('/') != std::string::npos) return false;
  const std::string name = path.substr(0, path.find(".tmp"));
  for (const char* own : {"sweep.yaml", "fit_config.json", "documents.json", "results.jsonl",
                          "results.csv", "report.html", "fit.json", "MANIFEST"}) {
    if (name == own) return true;
  }
  return path.starts_with("loss_vs_");
}

}  // namespace

absl::StatusOr<std::string> WriteBundle(const SweepConfig& sweep, const SweepGrid& grid,
                                        const std::string& folder) {
  if (HoldsSomething(folder))
    return absl::InvalidArgumentError(folder + ": is there already; a bundle takes a new folder");
  ASSIGN_OR_RETURN(const std::unique_ptr<Staging> staging,
                   Staging::Begin(folder, IsBundlePath, "mneme sweep --bundle"));
  std::optional<int64_t> cells;
  size_t files = 0;
  RETURN_IF_ERROR(Fill(sweep, grid, staging->folder(), cells, files));
  RETURN_IF_ERROR(staging->Publish(/*replace=*/false));
  const std::string count = std::to_string(files) + " files; ";
  if (!cells.has_value()) return folder + ": " + count + kNoFit;
  return folder + ": " + std::to_string(*cells) + " cells, " + count + "mneme sweep --verify " +
         folder + " makes the fit again";
}

absl::StatusOr<int64_t> CheckDigests(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string manifest, ReadFileBytes(folder + "/MANIFEST"));
  std::map<std::string, std::string> digests;
  std::istringstream in(manifest);
  for (std::string line; std::getline(in, line);) {
    const size_t gap = line.find("  ");
    if (gap == std::string::npos)
      return absl::DataLossError(folder + "/MANIFEST: '" + line + "' is no digest and name");
    digests[line.substr(gap + 2)] = line.substr(0, gap);
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOf(folder));
  for (const std::string& name : files) {
    if (digests.count(name) == 0)
      return absl::DataLossError(folder + "/" + name + ": is not in the MANIFEST");
  }
  for (const auto& [name, digest] : digests) {
    ASSIGN_OR_RETURN(const std::string now, FileDigest(folder + "/" + name));
    if (now != digest)
      return absl::DataLossError(folder + "/" + name + ": has changed: digest " + now + ", the " +
                                 "MANIFEST says " + digest);
  }
  return static_cast<int64_t>(digests.size());
}

absl::StatusOr<CellTable> ReadBundleCells(const std::string& folder) {
  const std::string path = folder + "/results.jsonl";
  ASSIGN_OR_RETURN(CellTable table, ReadCells(path));
  for (const CellResult& cell : table.cells) {
    const absl::Status mean = CheckMean(cell, cell.documents);
    if (!mean.ok()) return absl::DataLossError(path + ": " + std::string(mean.message()));
  }
  return table;
}

absl::StatusOr<std::string> VerifyBundle(const std::string& folder) {
  ASSIGN_OR_RETURN(const int64_t files, CheckDigests(folder));
  ASSIGN_OR_RETURN(const std::optional<SweepFit> fit, FitOf(folder));
  const std::string begin = folder + ": " + std::to_string(files) + " files are as they were";
  std::error_code error;
  if (!fit.has_value() && !fs::exists(folder + "/fit.json", error)) return begin + "; " + kNoFit;
  ASSIGN_OR_RETURN(const std::string before, ReadFileBytes(folder + "/fit.json"));
  if (!fit.has_value() || FitJson(*fit) + "\n" != before) {
    return absl::DataLossError(folder +
                               "/fit.json: the fit made again comes to other digits; was " +
                               "it made by another version of this program?");
  }
  return begin + ", and the fit of " + std::to_string(fit->cells) +
         " cells comes to the same digits";
}

}  // namespace mneme
