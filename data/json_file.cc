#include "data/json_file.h"

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kMostBytes = 100'000'000;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  if (bytes <= kMostBytes) return ReadFileBytes(path);
  return absl::DataLossError(path + ": has " + std::to_string(bytes) +
                             " bytes, more than any such file has");
}

absl::StatusOr<Json> Parse(const std::string& text, const std::string& path) {
  absl::StatusOr<Json> json = ParseJson(text);
  if (json.ok()) return json;
  return absl::DataLossError(path + ": " + std::string(json.status().message()));
}

}  // namespace

absl::StatusOr<Json> ReadJson(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  return Parse(text, path);
}

absl::StatusOr<std::string> ReadJsonText(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadText(path));
  if (text.starts_with("\xEF\xBB\xBF")) {
    return absl::DataLossError(path + ": begins with a byte order mark, which many cannot read");
  }
  ASSIGN_OR_RETURN(const Json json, Parse(text, path));
  if (json.object() == nullptr) return absl::DataLossError(path + ": is no JSON object");
  return text;
}

}  // namespace mneme
