// The checkpoints folder of a run: what is in it, what is kept.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <utility>

#include "data/files.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/manifest.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

// N of "step-N"; −1 for other names.
int64_t StepOf(const std::string& name) {
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix)) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, step);
  return error == std::errc() && stop == end ? step : -1;
}

bool LooksWhole(const std::string& path) {
  const absl::StatusOr<CheckpointManifest> manifest = ReadCheckpointManifest(path);
  if (!manifest.ok()) return false;
  return std::all_of(manifest->files.begin(), manifest->files.end(), [&](const auto& entry) {
    const absl::StatusOr<int64_t> bytes = FileSize(path + "/" + entry.first);
    return bytes.ok() && *bytes == entry.second.bytes;
  });
}

// Hidden first, then gone: a kill in between leaves no half of a checkpoint under its name.
void Remove(const fs::path& path) {
  std::error_code ignored;
  const fs::path hidden = path.parent_path() / (".old-" + path.filename().string());
  fs::remove_all(hidden, ignored);
  fs::rename(path, hidden, ignored);
  fs::remove_all(hidden, ignored);
}

}  // namespace

std::vector<std::string> ListCandidates(const std::string& folder) {
  std::vector<std::pair<int64_t, std::string>> found;
  const auto entries = ListFolder(folder);
  if (!entries.ok()) return {};
  for (const fs::directory_entry& entry : *entries) {
    const int64_t step = StepOf(entry.path().filename().string());
    if (step >= 0) found.emplace_back(step, entry.path().string());
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::vector<std::string> ListCheckpoints(const std::string& folder) {
  std::vector<std::string> paths = ListCandidates(folder);
  std::erase_if(paths, [](const std::string& path) { return !LooksWhole(path); });
  return paths;
}

absl::StatusOr<std::string> NewestCheckpoint(const std::string& folder) {
  const std::vector<std::string> whole = ListCheckpoints(folder);
  if (whole.empty()) return absl::NotFoundError(folder + ": holds no whole checkpoint");
  const std::string newest = ListCandidates(folder).front();
  if (newest == whole.front()) return newest;
  return absl::DataLossError(newest + ": is not whole; for an older one name " + whole.front());
}

void PruneCheckpoints(const std::string& folder, int64_t newest, int64_t keep_last,
                      int64_t milestone_every) {
  const auto entries = ListFolder(folder);
  if (!entries.ok()) return;
  std::error_code ignored;
  for (const fs::directory_entry& entry : *entries) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".saving-") || name.starts_with(".old-"))
      fs::remove_all(entry.path(), ignored);
  }
  if (keep_last <= 0) return;
  int64_t kept = 0;
  for (const std::string& path : ListCheckpoints(folder)) {
    const int64_t step = StepOf(fs::path(path).filename().string());
    if (step > newest || kept++ < keep_last) continue;
    if (milestone_every > 0 && step % milestone_every == 0) continue;
    Remove(path);
  }
}

}  // namespace mneme
