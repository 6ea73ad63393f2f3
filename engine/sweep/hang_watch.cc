#include "engine/sweep/hang_watch.h"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "configs/text.h"
#include "data/files.h"
#include "engine/run_folder.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

// Between two looks, and between SIGTERM and SIGKILL; less where the patience is less.
constexpr double kLookSeconds = 5.0;
constexpr double kGraceSeconds = 60.0;

std::string Sight(const std::string& path) {
  return path + " " + std::to_string(FileSize(path).value_or(-1));
}

}  // namespace

HangWatch::HangWatch(const CellFolder& folder, double seconds)
    : folder_(folder), seconds_(seconds), seen_(Look()), since_(Clock::now()), looked_(since_) {}

int HangWatch::Signal() {
  const auto passed = [now = Clock::now()](Clock::time_point then) {
    return std::chrono::duration<double>(now - then).count();
  };
  if (seconds_ <= 0.0 || killed_) return 0;
  if (hung_) {
    killed_ = passed(since_) >= std::min(kGraceSeconds, seconds_);
    return killed_ ? SIGKILL : 0;
  }
  if (passed(looked_) < std::min(kLookSeconds, seconds_ / 10.0)) return 0;
  looked_ = Clock::now();
  std::string now = Look();
  hung_ = now == seen_ && passed(since_) >= seconds_;
  if (hung_ || now != seen_) since_ = looked_;
  seen_ = std::move(now);
  return hung_ ? SIGTERM : 0;
}

// Sizes alone: over NFS the times of files are another machine's.
std::string HangWatch::Look() const {
  const RunFolder run{folder_.run()};
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator entry(run.checkpoints(), error);
  while (!error && entry != fs::recursive_directory_iterator()) {
    files.push_back(Sight(entry->path().string()));
    entry.increment(error);
  }
  std::sort(files.begin(), files.end());
  files.push_back(Sight(folder_.log()));
  files.push_back(Sight(run.metrics()));
  return Join(files, "\n");
}

}  // namespace mneme
