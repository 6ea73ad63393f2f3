// Files that several processes of several machines may want to make at once, NFS among the places.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mneme {

// Makes `path` with these bytes, whole or not at all, by link(2); false where it is there already.
// Exactly one of several processes gets true.
absl::StatusOr<bool> CreateExclusively(const std::string& path, const std::string& bytes);

// Puts these bytes in the place of what was there; with several writers the last one stays, whole.
absl::Status ReplaceFile(const std::string& path, const std::string& bytes);

}  // namespace mneme
