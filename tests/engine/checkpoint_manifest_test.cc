#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "configs/json.h"
#include "configs/json_text.h"
#include "data/files.h"
#include "engine/checkpoint/manifest.h"

namespace mneme {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Bytes of a manifest as the first version wrote them: a checkpoint of that day opens, and its
// digest is of this text without blanks.
constexpr char kText[] = R"json({
 "format": "mneme-checkpoint",
 "version": 1,
 "position": {
  "step": 12,
  "updates": 11,
  "stage": 1,
  "stage_step": 2,
  "stage_sample": 64,
  "tokens": 1152921504606846976,
  "skipped_in_a_row": 1,
  "recent_losses": [
   1.0,
   1e-05,
   2.25,
   0.1,
   1e+16,
   -0.0,
   5e-324,
   9.5367431640625e-07
  ]
 },
 "dtype": "f32",
 "ranks": 2,
 "moments": true,
 "data_digest": "5555555555555555",
 "vocabulary": {
  "size": 260,
  "eos": 256,
  "bos": -1,
  "pad": 257,
  "canonical_size": 200,
  "tokenizer": "bytes é",
  "digest": "6666666666666666"
 },
 "files": {
  "config.yaml": {
   "bytes": 100,
   "xxh3": "7777777777777777"
  },
  "rank-00000.h5": {
   "bytes": 2000,
   "xxh3": "8888888888888888"
  }
 },
 "slices": [
  {
   "name": "blocks.0.norm",
   "kind": "value",
   "file": "rank-00000.h5",
   "dataset": "/a/0",
   "row_range": [
    0,
    1
   ],
   "shape": [
    1,
    8
   ]
  }
 ],
 "tables": [
  {
   "name": "engram.0",
   "file": "rank-00000.h5",
   "group": "/t/0",
   "count": 5,
   "shape": [
    1000,
    16
   ],
   "phase": 0,
   "stride": 2
  }
 ],
 "digest": "1579dbdc6096d6da"
}
)json";

constexpr char kPart[] =
    R"json({"files":{"config.yaml":{"bytes":100,"xxh3":"7777777777777777"},"rank-00000.h5":)json"
    R"json({"bytes":2000,"xxh3":"8888888888888888"}},"slices":[{"name":"blocks.0.norm","kin)json"
    R"json(d":"value","file":"rank-00000.h5","dataset":"/a/0","row_range":[0,1],"shape":[1,)json"
    R"json(8]}],"tables":[{"name":"engram.0","file":"rank-00000.h5","group":"/t/0","count":)json"
    R"json(5,"shape":[1000,16],"phase":0,"stride":2}]})json";

CheckpointManifest Small() {
  CheckpointManifest c;
  RunPosition& p = c.position;
  p.step = 12;
  p.updates = 11;
  p.stage = 1;
  p.stage_step = 2;
  p.stage_sample = 64;
  p.tokens = int64_t{1} << 60;
  p.skipped_in_a_row = 1;
  p.recent_losses = {1.0, 1e-05, 2.25, 0.1, 1e16, -0.0, 5e-324, 9.5367431640625e-07};
  c.dtype = "f32";
  c.ranks = 2;
  c.data_digest = "5555555555555555";
  c.vocabulary.size = 260;
  c.vocabulary.eos = 256;
  c.vocabulary.bos = -1;
  c.vocabulary.pad = 257;
  c.vocabulary.canonical_size = 200;
  c.vocabulary.tokenizer = "bytes \u00e9";
  c.vocabulary.digest = "6666666666666666";
  c.files = {{"config.yaml", {100, "7777777777777777"}},
             {"rank-00000.h5", {2000, "8888888888888888"}}};
  c.slices = {{"blocks.0.norm", "value", "rank-00000.h5", "/a/0", 0, 1, 1, 8}};
  c.tables = {{"engram.0", "rank-00000.h5", "/t/0", 5, 1000, 16, 0, 2}};
  return c;
}

// A manifest that says something else, with a digest that is right.
std::string Changed(const std::string& from, const std::string& to) {
  std::string text = kText;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  Json json = ParseJson(text).value();
  json.object()->pop_back();
  json.Set("digest", BytesDigest(DenseJson(json)));
  return DenseJson(json);
}

std::string ErrorOf(const std::string& text) {
  const auto manifest = ParseCheckpointManifest(text, "here");
  if (manifest.ok()) return "none";
  EXPECT_EQ(manifest.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(manifest.status().message()), StartsWith("here: "));
  return std::string(manifest.status().message()).substr(6);
}

TEST(CheckpointManifest, HasTheBytesOfTheFirstVersion) {
  EXPECT_EQ(DumpCheckpointManifest(Small()), kText);
  EXPECT_EQ(DumpPart(Small()), kPart);
}

TEST(CheckpointManifest, OfTheFirstVersionIsRead) {
  const auto manifest = ParseCheckpointManifest(kText, "here");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->position.recent_losses, Small().position.recent_losses);
  EXPECT_EQ(DumpCheckpointManifest(*manifest), kText);
  // One from before `moments`.
  const auto older = ParseCheckpointManifest(Changed("\"moments\": true,", ""), "here");
  ASSERT_TRUE(older.ok()) << older.status();
  EXPECT_TRUE(older->moments);
  CheckpointManifest whole;
  MergePart(kPart, whole);
  EXPECT_EQ(DumpPart(whole), kPart);
}

TEST(CheckpointManifest, SaysWhatIsWrong) {
  EXPECT_EQ(ErrorOf(Changed("\"step\": 12", "\"step\": 12")), "none");
  for (const char* text :
       {"[]", "{}", "null", "{\"format\": 1}", "{\"format\": \"mneme-corpus\"}"}) {
    EXPECT_EQ(ErrorOf(text), "is not the manifest of a checkpoint") << text;
  }
  EXPECT_THAT(ErrorOf(""), StartsWith("is not JSON: column 1: "));
  EXPECT_THAT(ErrorOf(std::string(kText, 200)), StartsWith("is not JSON: line 11, column 19: "));
  EXPECT_EQ(ErrorOf(std::string(1000, '[')), "is JSON nested deeper than 64");
  EXPECT_THAT(ErrorOf(Changed("\"version\": 1", "\"version\": 2")), HasSubstr("reads version 1"));
  EXPECT_THAT(ErrorOf(Changed("\"version\": 1", "\"version\": []")), HasSubstr("reads version 1"));
  std::string text = kText;
  text.replace(text.find("12,"), 3, "13,");
  EXPECT_EQ(ErrorOf(text), "does not match its own checksum");
  const std::string digest = "\"digest\": \"1579dbdc6096d6da\"";
  text = kText;
  text.replace(text.find(digest), digest.size(), "\"digest\": 5");
  EXPECT_EQ(ErrorOf(text), "does not match its own checksum");
  const std::pair<std::string, std::pair<std::string, std::string>> cases[] = {
      {"\"step\": 12", {"\"step\": 1e30", "position.step: is 1e+30, not a whole number"}},
      {"\"step\": 12", {"\"steps\": 12", "position.step: is missing"}},
      {"\"dtype\": \"f32\"", {"\"dtype\": 32", "dtype: is 32, not a text"}},
      {"   2.25,", {"null,", "position.recent_losses: is null, not a number"}},
      {"\"bytes\": 100", {"\"bytes\": true", "files.config.yaml.bytes: is true"}},
      {"    8\n", {"8, 9", "slices[0].shape: is [1, 8, 9], not a list of 2 whole numbers"}},
      {"\"count\": 5", {"\"counts\": 5", "tables[0].count: is missing"}},
  };
  for (const auto& [from, to] : cases) {
    EXPECT_THAT(ErrorOf(Changed(from, to.first)),
                StartsWith("is not a whole manifest: " + to.second));
  }
}

// A stage or a step that no run comes to would be taken for an index.
TEST(CheckpointManifest, RefusesAPositionThatNoRunIsAt) {
  for (const auto& [from, to, why] : std::vector<std::array<std::string, 3>>{
           {"\"stage\": 1", "\"stage\": -1", "stage -1"},
           {"\"step\": 12", "\"step\": -12", "step -12"},
           {"\"updates\": 11", "\"updates\": -1", "updates -1"},
           {"\"stage_sample\": 64", "\"stage_sample\": 9223372036854775807",
            "stage_sample 9223372036854775807"},
           {"\"skipped_in_a_row\": 1", "\"skipped_in_a_row\": -3", "skipped_in_a_row -3"}}) {
    EXPECT_EQ(ErrorOf(Changed(from, to)), "states a position that cannot be: " + why);
  }
}

// Text that no JSON can hold is replaced, as in a corpus: nothing ends the run.
TEST(CheckpointManifest, TakesAnyBytes) {
  CheckpointManifest c = Small();
  c.vocabulary.tokenizer = "\xff\n\"";
  const auto manifest = ParseCheckpointManifest(DumpCheckpointManifest(c), "here");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->vocabulary.tokenizer, "\ufffd\n\"");
}

}  // namespace
}  // namespace mneme
