#include "engine/checkpoint/manifest.h"

#include <algorithm>
#include <climits>
#include <limits>
#include <map>
#include <utility>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int kVersion = 1;
constexpr const char* kFormat = "mneme-checkpoint";
constexpr int64_t kMostElementBytes = 8;
constexpr int64_t kMostCounted = int64_t{1} << 62;  // what is counted on from it fits 64 bits

Json::List Numbers(const std::vector<double>& values) {
  return Json::List(values.begin(), values.end());
}

Json::Object ToJson(const RunPosition& p) {
  return {{"step", p.step},
          {"updates", p.updates},
          {"stage", p.stage},
          {"stage_step", p.stage_step},
          {"stage_sample", p.stage_sample},
          {"tokens", p.tokens},
          {"skipped_in_a_row", p.skipped_in_a_row},
          {"recent_losses", Numbers(p.recent_losses)}};
}

RunPosition PositionFrom(JsonFields j) {
  RunPosition p;
  p.step = j.Integer("step");
  p.updates = j.Integer("updates");
  p.stage = j.Integer("stage");
  p.stage_step = j.Integer("stage_step");
  p.stage_sample = j.Integer("stage_sample");
  p.tokens = j.Integer("tokens");
  p.skipped_in_a_row = j.Integer("skipped_in_a_row");
  p.recent_losses = j.Numbers("recent_losses");
  return p;
}

Json::Object ToJson(const VocabularyInfo& v) {
  return {{"size", v.size},
          {"eos", v.eos},
          {"bos", v.bos},
          {"pad", v.pad},
          {"canonical_size", v.canonical_size},
          {"tokenizer", v.tokenizer},
          {"digest", v.digest}};
}

VocabularyInfo VocabularyFrom(JsonFields j) {
  VocabularyInfo v;
  v.size = j.Integer("size");
  v.eos = j.Integer("eos");
  v.bos = j.Integer("bos");
  v.pad = j.Integer("pad");
  v.canonical_size = j.Integer("canonical_size");
  v.tokenizer = j.Text("tokenizer");
  v.digest = j.Text("digest");
  return v;
}

// files, slices and tables: the half that every rank contributes to.
Json::Object ContentsJson(const CheckpointManifest& m) {
  Json::Object files;
  for (const auto& [name, file] : m.files) {
    files.push_back({name, Json::Object{{"bytes", file.bytes}, {"xxh3", file.digest}}});
  }
  Json::List slices;
  for (const StoredSlice& s : m.slices) {
    slices.push_back(Json::Object{{"name", s.name},
                                  {"kind", s.kind},
                                  {"file", s.file},
                                  {"dataset", s.dataset},
                                  {"row_range", Json::List{s.begin, s.end}},
                                  {"shape", Json::List{s.rows, s.cols}}});
  }
  Json::List tables;
  for (const StoredTable& t : m.tables) {
    tables.push_back(Json::Object{{"name", t.name},
                                  {"file", t.file},
                                  {"group", t.group},
                                  {"count", t.count},
                                  {"shape", Json::List{t.rows, t.width}},
                                  {"phase", t.phase},
                                  {"stride", t.stride}});
  }
  return {
      {"files", std::move(files)}, {"slices", std::move(slices)}, {"tables", std::move(tables)}};
}

void AddContents(JsonFields j, CheckpointManifest& m) {
  for (auto& [name, file] : j.FieldsByKey("files")) {
    m.files[name] = {file.Integer("bytes"), file.Text("xxh3")};
  }
  for (JsonFields& s : j.FieldsOfEach("slices")) {
    const std::vector<int64_t> rows = s.Integers("row_range", 2), shape = s.Integers("shape", 2);
    m.slices.push_back({s.Text("name"), s.Text("kind"), s.Text("file"), s.Text("dataset"), rows[0],
                        rows[1], shape[0], shape[1]});
  }
  for (JsonFields& t : j.FieldsOfEach("tables")) {
    const std::vector<int64_t> shape = t.Integers("shape", 2);
    m.tables.push_back({t.Text("name"), t.Text("file"), t.Text("group"), t.Integer("count"),
                        shape[0], shape[1], t.Integer("phase"), t.Integer("stride")});
  }
}

absl::Status Torn(const std::string& path, const std::string& why) {
  return absl::DataLossError(path + ": " + why);
}

CheckpointManifest ManifestFrom(JsonFields j) {
  CheckpointManifest m;
  m.position = PositionFrom(j.Fields("position"));
  m.dtype = j.Text("dtype");
  const int64_t ranks = j.Integer("ranks");
  m.ranks = static_cast<int>(std::clamp<int64_t>(ranks, INT_MIN, INT_MAX));
  m.moments = j.Flag("moments", true);
  m.data_digest = j.Text("data_digest");
  m.vocabulary = VocabularyFrom(j.Fields("vocabulary"));
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

// Whoever goes on from here counts on from these numbers.
absl::Status CheckPosition(const RunPosition& p, const std::string& path) {
  for (const auto& [name, count] : {std::pair<const char*, int64_t>{"step", p.step},
                                    {"updates", p.updates},
                                    {"stage", p.stage},
                                    {"stage_step", p.stage_step},
                                    {"stage_sample", p.stage_sample},
                                    {"tokens", p.tokens},
                                    {"skipped_in_a_row", p.skipped_in_a_row}}) {
    if (count >= 0 && count <= kMostCounted) continue;
    return Torn(path, "states a position that cannot be: " + std::string(name) + " " +
                          std::to_string(count));
  }
  return absl::OkStatus();
}

// What its digest is of: the rest, without blanks.
std::string DigestOf(Json json) {
  std::erase_if(*json.object(), [](const JsonMember& member) { return member.key == "digest"; });
  return BytesDigest(DenseJson(json));
}

}  // namespace

std::string DumpCheckpointManifest(const CheckpointManifest& m) {
  Json::Object members = {{"format", kFormat},
                          {"version", kVersion},
                          {"position", ToJson(m.position)},
                          {"dtype", m.dtype},
                          {"ranks", m.ranks},
                          {"moments", m.moments},
                          {"data_digest", m.data_digest},
                          {"vocabulary", ToJson(m.vocabulary)}};
  for (JsonMember& part : ContentsJson(m)) members.push_back(std::move(part));
  Json json = std::move(members);
  json.Set("digest", BytesDigest(DenseJson(json)));
  return IndentedJson(json, 1) + "\n";
}

absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text,
                                                           const std::string& path) {
  const absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Torn(path, std::string(json.status().message()));
  const Json* format = json->Find("format");
  if (format == nullptr || format->text() == nullptr || *format->text() != kFormat) {
    return Torn(path, "is not the manifest of a checkpoint");
  }
  std::vector<std::string> faults;
  JsonFields fields(*json, "", faults);
  if (fields.Integer("version", 0) != kVersion) {
    return Torn(path, "has a version that this program does not know; it reads version " +
                          std::to_string(kVersion));
  }
  if (DigestOf(*json) != fields.Text("digest", "")) {
    return Torn(path, "does not match its own checksum");
  }
  CheckpointManifest manifest = ManifestFrom(fields);
  if (!faults.empty()) return Torn(path, "is not a whole manifest: " + faults.front());
  RETURN_IF_ERROR(CheckPosition(manifest.position, path));
  RETURN_IF_ERROR(CheckShapes(manifest, path));
  return manifest;
}

absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  absl::StatusOr<std::string> text = ReadFileBytes(path);
  if (!text.ok()) return Torn(path, "cannot be read: " + std::string(text.status().message()));
  return ParseCheckpointManifest(*text, path);
}

std::string DumpPart(const CheckpointManifest& part) { return DenseJson(ContentsJson(part)); }

void MergePart(const std::string& text, CheckpointManifest& whole) {
  const absl::StatusOr<Json> json = ParseJson(text);
  CHECK(json.ok());
  std::vector<std::string> faults;
  AddContents(JsonFields(*json, "", faults), whole);
  CHECK(faults.empty());
}

}  // namespace mneme
