#include "data/manifest.h"

#include <utility>

#include "data/files.h"
#include "data/json_depth.h"
#include "kernels/core/check.h"
#include "nlohmann/json.hpp"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFormat[] = "mneme-corpus";
constexpr int64_t kVersion = 1;

Json ToJson(const ManifestFile& file) {
  return Json{{"file", file.name}, {"bytes", file.bytes}, {"digest", file.digest}};
}

ManifestFile FileFrom(const Json& json) {
  return {.name = json.at("file").get<std::string>(),
          .bytes = json.at("bytes").get<int64_t>(),
          .digest = json.at("digest").get<std::string>()};
}

// With its own digest empty.
Json ToJson(const Manifest& manifest) {
  Json shards = Json::array();
  for (const ManifestShard& shard : manifest.shards) {
    Json entry = ToJson(shard.file);
    entry["tokens"] = shard.tokens;
    entry["documents"] = shard.documents;
    entry["text_bytes"] = shard.text_bytes;
    entry["content"] = shard.content;
    shards.push_back(std::move(entry));
  }
  Json inputs = Json::array();
  for (const ManifestFile& input : manifest.inputs) inputs.push_back(ToJson(input));
  return Json{{"format", kFormat},
              {"version", kVersion},
              {"tokens", manifest.tokens},
              {"documents", manifest.documents},
              {"text_bytes", manifest.text_bytes},
              {"vocabulary_digest", manifest.vocabulary_digest},
              {"vocabulary", ToJson(manifest.vocabulary)},
              {"shards", std::move(shards)},
              {"inputs", std::move(inputs)},
              {"options", manifest.options},
              {"digest", ""}};
}

// Names of inputs may be any bytes; JSON is UTF-8.
std::string Dump(const Json& json) {
  return json.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::string TextOf(Json json) {
  json["digest"] = BytesDigest(Dump(json));
  return Dump(json) + "\n";
}

Manifest FromJson(const Json& json) {
  Manifest manifest;
  manifest.vocabulary_digest = json.at("vocabulary_digest").get<std::string>();
  manifest.vocabulary = FileFrom(json.at("vocabulary"));
  manifest.tokens = json.at("tokens").get<int64_t>();
  manifest.documents = json.at("documents").get<int64_t>();
  manifest.text_bytes = json.at("text_bytes").get<int64_t>();
  for (const Json& entry : json.at("shards")) {
    manifest.shards.push_back({.file = FileFrom(entry),
                               .tokens = entry.at("tokens").get<int64_t>(),
                               .documents = entry.at("documents").get<int64_t>(),
                               .text_bytes = entry.at("text_bytes").get<int64_t>(),
                               .content = entry.at("content").get<std::string>()});
  }
  for (const Json& entry : json.at("inputs")) manifest.inputs.push_back(FileFrom(entry));
  manifest.options = json.at("options").get<std::string>();
  return manifest;
}

bool AddsUp(const Manifest& manifest) {
  int64_t tokens = 0;
  int64_t documents = 0;
  for (const ManifestShard& shard : manifest.shards) {
    if (shard.tokens <= 0 || shard.documents <= 0) return false;
    if (shard.file.name.find('/') != std::string::npos) return false;
    tokens += shard.tokens;
    documents += shard.documents;
  }
  return tokens == manifest.tokens && documents == manifest.documents && tokens > 0;
}

absl::Status Bad(const std::string& path, const std::string& why) {
  return absl::DataLossError(path + ": " + why + "; prepare the corpus again");
}

}  // namespace

std::string ManifestText(const Manifest& manifest) { return TextOf(ToJson(manifest)); }

absl::StatusOr<Manifest> ReadManifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path));
  if (!IsShallowJson(text)) return Bad(path, "is not the manifest of a corpus");
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("format", Json()) != kFormat) {
    return Bad(path, "is not the manifest of a corpus");
  }
  const Json version = json.value("version", Json());
  if (version != kVersion) {
    return Bad(path, "has format version " + version.dump() + ", this program reads " +
                         std::to_string(kVersion));
  }
  json["digest"] = "";
  if (TextOf(json) != text) return Bad(path, "was changed or damaged (its digest does not match)");
  try {
    Manifest manifest = FromJson(json);
    if (!AddsUp(manifest)) return Bad(path, "has shards that do not add up to its totals");
    return manifest;
  } catch (const Json::exception& error) {
    return Bad(path, std::string("is incomplete: ") + error.what());
  }
}

bool HasCorpusManifest(const std::string& folder) {
  // The text begins with it, and is no longer JSON where a byte of it was lost.
  const std::string text = ReadFileBytes(folder + "/" + kManifestName).value_or("").substr(0, 64);
  return text.find(std::string("\"format\": \"") + kFormat + '"') != std::string::npos;
}

std::string CorpusDigest(const Manifest& manifest) {
  std::string text = std::string(kFormat) + "\n" + manifest.vocabulary_digest + "\n" +
                     std::to_string(manifest.text_bytes);
  for (const ManifestShard& shard : manifest.shards) text += "\n" + shard.content;
  return BytesDigest(text);
}

}  // namespace mneme
