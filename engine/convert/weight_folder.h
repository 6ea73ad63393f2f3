// The weights of a model in the Hugging Face layout: one model.safetensors, or shards and their
// index; or one safetensors file by itself.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/convert/safetensors.h"

namespace mneme {

inline constexpr char kIndexName[] = "model.safetensors.index.json";
inline constexpr char kSingleName[] = "model.safetensors";

// Owns the open files; what it hands out lives as long as it does.
class WeightFolder {
 public:
  // Where a tensor stands.
  struct Place {
    const SafetensorsFile* file;
    const StoredTensor* tensor;  // of that file's header
  };

  // Reads every header. `path` is a folder or a file. Errors: NotFound (no weights here, a shard is
  // missing), DataLoss (a damaged file; index and shards that do not agree, each with the tensor).
  static absl::StatusOr<std::unique_ptr<WeightFolder>> Open(const std::string& path);

  // By name, each once over all files.
  const std::map<std::string, Place>& tensors() const { return tensors_; }
  // Null where there is no tensor of that name.
  const Place* Find(const std::string& name) const;
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }

 private:
  absl::Status AddFile(const std::string& path);
  absl::Status AddShards(const std::string& folder);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Place> tensors_;
};

}  // namespace mneme
