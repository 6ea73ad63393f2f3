#include <filesystem>
#include <fstream>
#include <sstream>

#include "configs/flatten.h"
#include "configs/load.h"
#include "gtest/gtest.h"
#include "tests/configs/files.h"

namespace mneme {
namespace {

// Gives every leaf a value of its own, so that a key that is lost or swapped on the way shows.
void Disturb(const Section& section, int64_t& number);

struct Disturber {
  int64_t& number;
  const Field& field;
  void operator()(int64_t* v) const { *v = ++number * 1'000'003; }
  void operator()(double* v) const { *v = 1.0 / static_cast<double>(3 * ++number); }
  void operator()(bool* v) const { *v = !*v; }
  void operator()(std::string* v) const {
    *v = field.choices.empty()
             ? (field.is_path ? "/" : "\"") + std::to_string(++number) + ": # 'é'\t{\\"
             : field.choices.back();
  }
  void operator()(std::vector<int64_t>* v) const { *v = {++number, -number}; }
  void operator()(std::vector<double>* v) const {
    *v = {0.1 * static_cast<double>(++number), 1e-20};
  }
  void operator()(std::vector<std::string>* v) const { *v = {field.is_path ? "/true" : "all"}; }
  void operator()(const Section& s) const { Disturb(s, number); }
  void operator()(const SectionList& list) const {
    list.resize(2);
    for (int64_t i = 0; i < 2; ++i) Disturb(list.at(i), number);
  }
};

void Disturb(const Section& section, int64_t& number) {
  for (const Field& field : section.fields) std::visit(Disturber{number, field}, field.target);
}

TEST(DumpConfig, EveryKeyReadsBackToTheSameValue) {
  RunConfig config;
  int64_t number = 0;
  Disturb(Reflector::Of(config), number);
  // Only the rules refuse such a config; the reader must have understood all of it.
  const absl::StatusOr<RunConfig> back = ParseConfig(DumpConfig(config), "dumped");
  ASSERT_FALSE(back.ok());
  for (const char* fault :
       {"unknown key", "expects", "is not one of", "stands twice", "not YAML", "is not a whole"}) {
    EXPECT_EQ(back.status().message().find(fault), absl::string_view::npos)
        << back.status().message();
  }
}

TEST(DumpConfig, RoundTripsExactly) {
  TestFolder folder;
  const std::string path = folder.Write(
      "run.yaml",
      "run: {dir: \"we ird: #1/\\\"x\\\"\"}\nmodel: {layers: 3, norm_eps: 1.2345678901234567e-20, "
      "engram: {blocks: [0, 2], "
      "d_mem: 16, vocab_size: [100, 200]}}\ndata: {train: [a, b], weights: [0.1, "
      "0.30000000000000004]}\n"
      "evaluate: {every: 5, sets: [{name: 'on', data: c, sequences: 3}, {name: 'x y', data: d}]}\n"
      "train: {steps: 9, recompute: [attention, mhc]}\n");
  for (const std::string stages :
       {"", "stages=[{steps: 3, yarn: {scale: 3.3}}, {tokens: 1e6, lr: 0.1}]"}) {
    const std::vector<std::string> overrides =
        stages.empty() ? std::vector<std::string>{} : std::vector<std::string>{stages};
    const auto config = LoadConfig(path, overrides);
    ASSERT_TRUE(config.ok()) << config.status();
    const std::string text = DumpConfig(*config);
    const auto back = ParseConfig(text, "elsewhere.yaml");
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_TRUE(CompareConfigs(*config, *back).empty());
    EXPECT_EQ(DumpConfig(*back), text);
    EXPECT_EQ(back->stages.size(), stages.empty() ? 1u : 2u);
  }
}

TEST(DumpConfig, AResolvedFileStillObeysOverridesOfItsSections) {
  TestFolder folder;
  const auto config = LoadConfig(folder.Write("run.yaml", "train: {steps: 9}\n"), {});
  ASSERT_TRUE(config.ok());
  const auto longer =
      LoadConfig(folder.Write("config.yaml", DumpConfig(*config)), {"train.steps=20"});
  ASSERT_TRUE(longer.ok()) << longer.status();
  EXPECT_EQ(longer->stages[0].steps, 20);
}

TEST(CompareConfigs, NamesEveryDifferenceAndWhetherARunMayGoOn) {
  TestFolder folder;
  const std::string path = folder.Write("run.yaml", "train: {steps: 9}\nmodel: {layers: 2}\n");
  const auto before = LoadConfig(path, {});
  const auto after = LoadConfig(path, {"train.steps=10", "model.layers=3", "parallel.expert=2",
                                       "optim.lr=1e-3", "run.dir=y"});
  ASSERT_TRUE(before.ok() && after.ok());
  std::vector<std::string> free, bound;
  for (const ConfigDifference& d : CompareConfigs(*before, *after)) {
    (MayChangeOnResume(d.key) ? free : bound).push_back(d.key);
    if (d.key == "model.layers") {
      EXPECT_EQ(d.before, "2");
      EXPECT_EQ(d.after, "3");
    }
  }
  EXPECT_EQ(bound, (std::vector<std::string>{"model.layers", "optim.lr", "stages.0.lr"}));
  EXPECT_EQ(free, (std::vector<std::string>{"parallel.expert", "run.dir", "stages.0.steps",
                                            "train.steps"}));
  EXPECT_FALSE(MayChangeOnResume("train.sequence_length"));
  EXPECT_FALSE(MayChangeOnResume("stages.1.data.seed"));
}

TEST(ConfigSchema, HasEveryKeyOnce) {
  RunConfig defaults;
  const std::string markdown = ConfigSchema(false);
  const std::string json = ConfigSchema(true);
  for (const auto& [key, value] : Flatten(Reflector::Of(defaults), "")) {
    const size_t first = markdown.find("| `" + key + "` |");
    ASSERT_NE(first, std::string::npos) << key;
    EXPECT_EQ(markdown.find("| `" + key + "` |", first + 1), std::string::npos) << key;
    EXPECT_NE(json.find("{\"key\": \"" + key + "\""), std::string::npos) << key;
  }
  EXPECT_NE(markdown.find("`stages.N.yarn.scale`"), std::string::npos);
  EXPECT_NE(markdown.find("`evaluate.sets.N.name`"), std::string::npos);
}

TEST(ConfigSchema, TheDocumentIsWhatTheProgramPrints) {
  const std::string path = std::string(MNEME_SOURCE_DIR) + "/docs/configuration.md";
  std::ifstream in(path);
  ASSERT_TRUE(in) << path;
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), ConfigSchema(false))
      << "write it again: mneme config schema > docs/configuration.md";
}

}  // namespace
}  // namespace mneme
