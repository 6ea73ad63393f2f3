// The hidden folder that a conversion writes in until it is whole: finished files survive a kill,
// and a later call with the same plan goes on after them.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/run_folder.h"

namespace mneme {

class WorkFolder {
 public:
  // TO.converting beside TO. What lies in it is kept where `plan` (any text) is the one it was made
  // under, and removed otherwise. FailedPrecondition where TO is there and may not be replaced:
  // only a folder whose certificate names all that is in it ever is; the same for a TO.converting
  // that no conversion began. Unavailable where another process writes it.
  static absl::StatusOr<WorkFolder> Open(const std::string& to, const std::string& plan,
                                         bool replace);

  const std::string& path() const { return path_; }
  // A file under its final name is whole.
  bool Has(const std::string& name) const;
  // Gives the folder its name; an old one of that name goes.
  absl::Status Publish();

 private:
  WorkFolder(std::string to, std::string path) : to_(std::move(to)), path_(std::move(path)) {}
  std::string Old() const { return to_ + ".replaced"; }  // on its way out
  std::string to_;
  std::string path_;
  std::optional<FolderLock> lock_;
};

}  // namespace mneme
