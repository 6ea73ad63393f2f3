// A folder that appears whole or not at all: made under a hidden name beside its place, then
// renamed.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mneme {

class Staging {
 public:
  // The hidden folder for `target`, empty and locked for this process. What a killed process left
  // there is removed. FailedPrecondition while another process works on it.
  static absl::StatusOr<std::unique_ptr<Staging>> Begin(const std::string& target);
  // Removes what was not published.
  ~Staging();

  const std::string& folder() const { return folder_; }
  // Puts the folder in its place, instead of what is there if `replace`; FailedPrecondition if
  // something came to be there meanwhile. Files inside must be synced already.
  absl::Status Publish(bool replace);

 private:
  Staging() = default;
  std::string target_;
  std::string folder_;
  int lock_ = -1;
  bool published_ = false;
};

// Whether `folder` exists and holds anything.
bool HoldsSomething(const std::string& folder);

}  // namespace mneme
