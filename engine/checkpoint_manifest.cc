#include "engine/checkpoint_manifest.h"

#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/hdf5_file.h"
#include "data/json_depth.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr const char* kFormat = "mneme-checkpoint";
constexpr int64_t kMostElementBytes = 8;

Json ToJson(const RunPosition& p) {
  return {{"step", p.step},
          {"updates", p.updates},
          {"stage", p.stage},
          {"stage_step", p.stage_step},
          {"stage_sample", p.stage_sample},
          {"tokens", p.tokens},
          {"skipped_in_a_row", p.skipped_in_a_row},
          {"recent_losses", p.recent_losses}};
}

RunPosition PositionFrom(const Json& j) {
  RunPosition p;
  p.step = j.at("step").get<int64_t>();
  p.updates = j.at("updates").get<int64_t>();
  p.stage = j.at("stage").get<int64_t>();
  p.stage_step = j.at("stage_step").get<int64_t>();
  p.stage_sample = j.at("stage_sample").get<int64_t>();
  p.tokens = j.at("tokens").get<int64_t>();
  p.skipped_in_a_row = j.at("skipped_in_a_row").get<int64_t>();
  p.recent_losses = j.at("recent_losses").get<std::vector<double>>();
  return p;
}

Json ToJson(const VocabularyInfo& v) {
  return {{"size", v.size},
          {"eos", v.eos},
          {"bos", v.bos},
          {"pad", v.pad},
          {"canonical_size", v.canonical_size},
          {"tokenizer", v.tokenizer},
          {"digest", v.digest}};
}

VocabularyInfo VocabularyFrom(const Json& j) {
  VocabularyInfo v;
  v.size = j.at("size").get<int64_t>();
  v.eos = j.at("eos").get<int64_t>();
  v.bos = j.at("bos").get<int64_t>();
  v.pad = j.at("pad").get<int64_t>();
  v.canonical_size = j.at("canonical_size").get<int64_t>();
  v.tokenizer = j.at("tokenizer").get<std::string>();
  v.digest = j.at("digest").get<std::string>();
  return v;
}

// files, slices and tables: the half that every rank contributes to.
Json ContentsJson(const CheckpointManifest& m) {
  Json files = Json::object();
  for (const auto& [name, file] : m.files) {
    files[name] = {{"bytes", file.bytes}, {"xxh3", file.digest}};
  }
  Json slices = Json::array();
  for (const StoredSlice& s : m.slices) {
    slices.push_back({{"name", s.name},
                      {"kind", s.kind},
                      {"file", s.file},
                      {"dataset", s.dataset},
                      {"row_range", {s.begin, s.end}},
                      {"shape", {s.rows, s.cols}}});
  }
  Json tables = Json::array();
  for (const StoredTable& t : m.tables) {
    tables.push_back({{"name", t.name},
                      {"file", t.file},
                      {"group", t.group},
                      {"count", t.count},
                      {"shape", {t.rows, t.width}},
                      {"phase", t.phase},
                      {"stride", t.stride}});
  }
  return {
      {"files", std::move(files)}, {"slices", std::move(slices)}, {"tables", std::move(tables)}};
}

void AddContents(const Json& j, CheckpointManifest& m) {
  for (const auto& [name, file] : j.at("files").items()) {
    m.files[name] = {file.at("bytes").get<int64_t>(), file.at("xxh3").get<std::string>()};
  }
  for (const Json& s : j.at("slices")) {
    m.slices.push_back({s.at("name").get<std::string>(), s.at("kind").get<std::string>(),
                        s.at("file").get<std::string>(), s.at("dataset").get<std::string>(),
                        s.at("row_range").at(0).get<int64_t>(),
                        s.at("row_range").at(1).get<int64_t>(), s.at("shape").at(0).get<int64_t>(),
                        s.at("shape").at(1).get<int64_t>()});
  }
  for (const Json& t : j.at("tables")) {
    m.tables.push_back({t.at("name").get<std::string>(), t.at("file").get<std::string>(),
                        t.at("group").get<std::string>(), t.at("count").get<int64_t>(),
                        t.at("shape").at(0).get<int64_t>(), t.at("shape").at(1).get<int64_t>(),
                        t.at("phase").get<int64_t>(), t.at("stride").get<int64_t>()});
  }
}

absl::Status Torn(const std::string& path, const std::string& why) {
  return absl::DataLossError(path + ": " + why);
}

CheckpointManifest ManifestFrom(const Json& j) {
  CheckpointManifest m;
  m.position = PositionFrom(j.at("position"));
  m.dtype = j.at("dtype").get<std::string>();
  m.ranks = j.at("ranks").get<int>();
  m.moments = j.value("moments", true);
  m.data_digest = j.at("data_digest").get<std::string>();
  m.vocabulary = VocabularyFrom(j.at("vocabulary"));
  AddContents(j, m);
  return m;
}

// Whether the bytes of all elements are counted in 64 bits; a side may be 0.
bool Countable(int64_t rows, int64_t cols) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / kMostElementBytes;
  return rows >= 0 && cols >= 0 && (cols == 0 || rows <= kMost / cols);
}

bool Sound(const StoredSlice& s) {
  return Countable(s.rows, s.cols) && s.begin >= 0 && s.begin <= s.end && s.end <= s.rows;
}

bool Sound(const StoredTable& t) {
  return Countable(t.rows, t.width) && t.rows > 0 && t.width > 0 && t.count >= 0 &&
         t.count <= t.rows && t.phase >= 0 && t.phase < t.stride;
}

// Readers divide by these numbers and make room for them.
absl::Status CheckShapes(const CheckpointManifest& m, const std::string& path) {
  for (const StoredSlice& s : m.slices) {
    if (!Sound(s)) return Torn(path, "states rows or a shape of " + s.name + " that cannot be");
  }
  std::map<std::string, std::pair<int64_t, int64_t>> shapes;
  for (const StoredTable& t : m.tables) {
    const std::pair<int64_t, int64_t> shape = {t.rows, t.width};
    if (!Sound(t) || shapes.emplace(t.name, shape).first->second != shape) {
      return Torn(path, "states a part of " + t.name +
                            " that cannot be: " + std::to_string(t.count) + " rows of a table of " +
                            std::to_string(t.rows) + " x " + std::to_string(t.width));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string DumpCheckpointManifest(const CheckpointManifest& m) {
  Json j = {{"format", kFormat},
            {"version", kVersion},
            {"position", ToJson(m.position)},
            {"dtype", m.dtype},
            {"ranks", m.ranks},
            {"moments", m.moments},
            {"data_digest", m.data_digest},
            {"vocabulary", ToJson(m.vocabulary)}};
  j.update(ContentsJson(m));
  j["digest"] = BytesDigest(j.dump());
  return j.dump(1) + "\n";
}

absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text,
                                                           const std::string& path) {
  // nlohmann throws where an entry is absent or of another type; it stops here.
  try {
    if (!IsShallowJson(text)) return Torn(path, "is not a whole checkpoint manifest");
    Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!j.is_object() || j.value("format", "") != kFormat) {
      return Torn(path, "is not a whole checkpoint manifest");
    }
    if (j.value("version", 0) != kVersion) {
      return Torn(path, "has a version that this program does not know; it reads version " +
                            std::to_string(kVersion));
    }
    const std::string digest = j.value("digest", "");
    j.erase("digest");
    if (BytesDigest(j.dump()) != digest) return Torn(path, "does not match its own checksum");
    CheckpointManifest m = ManifestFrom(j);
    RETURN_IF_ERROR(CheckShapes(m, path));
    return m;
  } catch (const Json::exception& e) {
    return Torn(path, std::string("is not a whole checkpoint manifest: ") + e.what());
  }
}

absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  absl::StatusOr<std::string> text = ReadFileBytes(path);
  if (!text.ok()) return Torn(path, "cannot be read: " + std::string(text.status().message()));
  return ParseCheckpointManifest(*text, path);
}

std::string DumpPart(const CheckpointManifest& part) { return ContentsJson(part).dump(); }

void MergePart(const std::string& text, CheckpointManifest& whole) {
  const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  CHECK(j.is_object());
  AddContents(j, whole);
}

}  // namespace mneme
