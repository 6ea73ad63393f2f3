// A folder that appears whole or not at all: made under a hidden name beside its place, then
// renamed.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/own_folder.h"

namespace mneme {

// A file in the folder while it is made; for a moment, and where a process was killed then, also
// after.
inline constexpr char kStagingLock[] = ".lock";

class Staging {
 public:
  // The hidden folder for `target`, empty and locked for this process. What a killed process left
  // there is removed; where that had moved the old folder away and came no further, it is brought
  // back. `own` is what `maker` makes in the folder: nothing else is ever removed.
  // FailedPrecondition while another process works on it, where it holds something foreign, and
  // where `target` is a link.
  static absl::StatusOr<std::unique_ptr<Staging>> Begin(const std::string& target,
                                                        const OwnPaths& own,
                                                        const std::string& maker);
  // Removes what was not published.
  ~Staging();

  const std::string& folder() const { return folder_; }
  // Puts the folder in its place, instead of what is there if `replace` and if that is `own`;
  // FailedPrecondition if something came to be there meanwhile. Files inside must be synced
  // already.
  absl::Status Publish(bool replace);

 private:
  Staging() = default;
  absl::Status TakeOver(const std::string& hidden);
  OwnPaths own_;
  std::string maker_;
  std::string target_;
  std::string folder_;
  int lock_ = -1;
  bool published_ = false;
};

// Whether `folder` exists and holds anything.
bool HoldsSomething(const std::string& folder);

}  // namespace mneme
