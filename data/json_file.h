// A file of JSON as a plain value.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "configs/json.h"

namespace mneme {

// Of at most 100 MB: config.json, index files, results. FileError's codes; DataLoss naming the
// path.
absl::StatusOr<Json> ReadJson(const std::string& path);
// The text of a file that others will read, of a JSON object. Errors as above.
absl::StatusOr<std::string> ReadJsonText(const std::string& path);

}  // namespace mneme
