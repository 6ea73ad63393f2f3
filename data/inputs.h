// What `mneme prepare` was told to read, as a list of files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

enum class InputKind { kText, kJsonLines, kIds };

struct InputFile {
  std::string path;
  InputKind kind = InputKind::kText;
  int64_t bytes = 0;
};

// Files by their endings, folders by what is below them (prepare.h); files of a folder in the order
// of their paths. NotFound, PermissionDenied, or InvalidArgument for no inputs, a folder without
// any, or ids mixed with text.
absl::StatusOr<std::vector<InputFile>> FindInputs(const std::vector<std::string>& inputs);

}  // namespace mneme
