#include "engine/convert/weight_folder.h"

#include <filesystem>
#include <utility>

#include "configs/json_text.h"
#include "data/json_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

// Tensor -> file. A file is a plain name: no index reaches out of its folder.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const Json json, ReadJson(path));
  const Json* map = json.Find("weight_map");
  if (map == nullptr || map->object() == nullptr || map->object()->empty()) {
    return absl::DataLossError(path + ": has no weight_map from tensors to files");
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, value] : *map->object()) {
    const std::string file = value.text() == nullptr ? "" : *value.text();
    if (file.empty() || file.find('/') != std::string::npos || file[0] == '.') {
      return absl::DataLossError(path + ": the file of '" + ShownKey(name) +
                                 "' is no plain file name");
    }
    files[name] = file;
  }
  return files;
}

}  // namespace

absl::Status WeightFolder::AddFile(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(path));
  for (const StoredTensor& tensor : file->header().tensors) {
    const auto [it, fresh] = tensors_.try_emplace(tensor.name, Place{file.get(), &tensor});
    if (!fresh) {
      return absl::DataLossError(path + ": tensor '" + tensor.name + "' is also in " +
                                 it->second.file->path());
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status WeightFolder::AddShards(const std::string& folder) {
  const std::string index = folder + "/" + kIndexName;
  ASSIGN_OR_RETURN(const auto placed, ReadIndex(index));
  std::map<std::string, bool> names;
  for (const auto& [name, file] : placed) names[file] = true;
  for (const auto& [name, unused] : names) {
    const std::string path = folder + "/" + name;
    std::error_code error;
    if (!fs::exists(path, error)) {
      return absl::NotFoundError(path + ": is missing; " + index + " names it as one of " +
                                 std::to_string(names.size()) + " shards: get it again");
    }
    RETURN_IF_ERROR(AddFile(path));
  }
  for (const auto& [name, file] : placed) {
    const Place* place = Find(name);
    if (place == nullptr || fs::path(place->file->path()).filename() != file) {
      return absl::DataLossError(folder + "/" + file + ": lacks the tensor '" + name + "' that " +
                                 kIndexName + " says it has");
    }
  }
  for (const auto& [name, place] : tensors_) {
    if (placed.contains(name)) continue;
    return absl::DataLossError(place.file->path() + ": has a tensor '" + name + "' that " +
                               kIndexName + " does not name");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WeightFolder>> WeightFolder::Open(const std::string& path) {
  auto folder = std::make_unique<WeightFolder>();
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    RETURN_IF_ERROR(folder->AddFile(path));
  } else if (fs::exists(path + "/" + kIndexName, error)) {
    RETURN_IF_ERROR(folder->AddShards(path));
  } else if (fs::exists(path + "/" + kSingleName, error)) {
    RETURN_IF_ERROR(folder->AddFile(path + "/" + kSingleName));
  } else {
    return absl::NotFoundError(path + ": holds neither " + kSingleName + " nor " + kIndexName +
                               ": no weights in the Hugging Face layout");
  }
  return folder;
}

const WeightFolder::Place* WeightFolder::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace mneme
