#include "data/manifest.h"

#include <utility>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr char kFormat[] = "mneme-corpus";
constexpr int64_t kVersion = 1;
constexpr int kIndent = 2;

Json::Object ToJson(const ManifestFile& file) {
  return {{"file", file.name}, {"bytes", file.bytes}, {"digest", file.digest}};
}

ManifestFile FileFrom(JsonFields& fields) {
  return {.name = fields.Text("file"),
          .bytes = fields.Integer("bytes"),
          .digest = fields.Text("digest")};
}

Json ToJson(const Manifest& manifest) {
  Json::List shards;
  for (const ManifestShard& shard : manifest.shards) {
    Json entry = ToJson(shard.file);
    entry.Set("tokens", shard.tokens);
    entry.Set("documents", shard.documents);
    entry.Set("text_bytes", shard.text_bytes);
    entry.Set("content", shard.content);
    shards.push_back(std::move(entry));
  }
  Json::List inputs;
  for (const ManifestFile& input : manifest.inputs) inputs.push_back(ToJson(input));
  return Json::Object{{"format", kFormat},
                      {"version", kVersion},
                      {"tokens", manifest.tokens},
                      {"documents", manifest.documents},
                      {"text_bytes", manifest.text_bytes},
                      {"vocabulary_digest", manifest.vocabulary_digest},
                      {"vocabulary", ToJson(manifest.vocabulary)},
                      {"shards", std::move(shards)},
                      {"inputs", std::move(inputs)},
                      {"options", manifest.options}};
}

// With a digest of the same text with an empty one. Names of inputs may be any bytes; JSON is
// UTF-8.
std::string TextOf(Json json) {
  json.Set("digest", "");
  json.Set("digest", BytesDigest(IndentedJson(json, kIndent)));
  return IndentedJson(json, kIndent) + "\n";
}

Manifest FromJson(JsonFields fields) {
  Manifest manifest;
  manifest.vocabulary_digest = fields.Text("vocabulary_digest");
  JsonFields vocabulary = fields.Fields("vocabulary");
  manifest.vocabulary = FileFrom(vocabulary);
  manifest.tokens = fields.Integer("tokens");
  manifest.documents = fields.Integer("documents");
  manifest.text_bytes = fields.Integer("text_bytes");
  for (JsonFields& entry : fields.FieldsOfEach("shards")) {
    manifest.shards.push_back({.file = FileFrom(entry),
                               .tokens = entry.Integer("tokens"),
                               .documents = entry.Integer("documents"),
                               .text_bytes = entry.Integer("text_bytes"),
                               .content = entry.Text("content")});
  }
  for (JsonFields& entry : fields.FieldsOfEach("inputs")) {
    manifest.inputs.push_back(FileFrom(entry));
  }
  manifest.options = fields.Text("options");
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
  const absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Bad(path, std::string(json.status().message()));
  const Json* format = json->Find("format");
  if (format == nullptr || format->text() == nullptr || *format->text() != kFormat) {
    return Bad(path, "is not the manifest of a corpus");
  }
  const Json* version = json->Find("version");
  if (version == nullptr || version->integer() == nullptr || *version->integer() != kVersion) {
    return Bad(path, "has format version " + (version == nullptr ? "none" : ShowJson(*version)) +
                         ", this program reads " + std::to_string(kVersion));
  }
  if (TextOf(*json) != text) return Bad(path, "was changed or damaged (its digest does not match)");
  std::vector<std::string> faults;
  Manifest manifest = FromJson(JsonFields(*json, "", faults));
  if (!faults.empty()) return Bad(path, "is incomplete: " + faults.front());
  if (!AddsUp(manifest)) return Bad(path, "has shards that do not add up to its totals");
  return manifest;
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
