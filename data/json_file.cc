#include "data/json_file.h"

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kMostBytes = 100'000'000;

}  // namespace

absl::StatusOr<Json> ReadJson(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  if (bytes > kMostBytes) {
    return absl::DataLossError(path + ": has " + std::to_string(bytes) +
                               " bytes, more than any such file has");
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path));
  absl::StatusOr<Json> json = ParseJson(text);
  if (json.ok()) return json;
  return absl::DataLossError(path + ": " + std::string(json.status().message()));
}

}  // namespace mneme
