#include "engine/sweep/lease.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "data/files.h"
#include "engine/sweep/shared_files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kMostGenerations = 1'000'000'000;  // one a second for thirty years

constexpr size_t kMostOwner = 300;  // a host's name has up to 255

std::string LeasePath(const std::string& folder, int64_t generation) {
  return folder + "/lease." + std::to_string(generation);
}

}  // namespace

std::string LeaseState::owner() const {
  const std::string name = content.substr(0, content.find(' '));
  const bool sound =
      !name.empty() && name.size() <= kMostOwner && name.size() < content.size() &&
      std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127; });
  return sound ? name : "unknown";
}

LeaseState ReadLease(const std::string& folder) {
  LeaseState state;
  const auto entries = ListFolder(folder);
  if (!entries.ok()) return state;
  for (const std::filesystem::directory_entry& entry : *entries) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("lease.", 0) != 0) continue;
    int64_t generation = 0;
    const auto parsed = std::from_chars(name.data() + 6, name.data() + name.size(), generation);
    if (parsed.ptr != name.data() + name.size()) continue;  // a draft
    if (generation > kMostGenerations) continue;            // none that a worker makes
    state.generation = std::max(state.generation, generation);
  }
  if (state.generation > 0)
    state.content = ReadFileBytes(LeasePath(folder, state.generation)).value_or("");
  return state;
}

void Lease::Write(const std::string& state) {
  // One small write in place: a reader sees the old line or the new one. Failing is not worse than
  // being slow, since others go by what they see.
  const std::string path = LeasePath(folder_, generation_);
  const int descriptor = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  const std::string line = owner_ + " " + state + "\n";
  if (pwrite(descriptor, line.data(), line.size(), 0) == static_cast<ssize_t>(line.size()))
      [[maybe_unused]]
    const int cut = ftruncate(descriptor, static_cast<off_t>(line.size()));
  fsync(descriptor);
  close(descriptor);
}

bool Lease::Beat() {
  Write("beat " + std::to_string(++beats_));
  std::error_code error;
  return !std::filesystem::exists(LeasePath(folder_, generation_ + 1), error);
}

void Lease::Release() { Write("free"); }

bool LeaseBook::IsFree(const std::string& folder, const LeaseState& lease) {
  if (lease.free()) return true;
  const auto now = std::chrono::steady_clock::now();
  Sight& sight = seen_[folder];
  if (sight.generation != lease.generation || sight.content != lease.content)
    sight = {lease.generation, lease.content, now};
  return std::chrono::duration<double>(now - sight.since).count() >= seconds_;
}

absl::StatusOr<std::optional<Lease>> LeaseBook::Take(const std::string& folder) {
  const LeaseState state = ReadLease(folder);
  if (!IsFree(folder, state)) return std::optional<Lease>();
  const int64_t generation = state.generation + 1;
  ASSIGN_OR_RETURN(const bool made,
                   CreateExclusively(LeasePath(folder, generation), owner_ + " beat 0\n"));
  if (!made) return std::optional<Lease>();
  return std::optional<Lease>(Lease(folder, generation, owner_));
}

}  // namespace mneme
