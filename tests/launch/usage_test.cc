// Help, versions, and everything that can be typed wrongly.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/launch/program.h"

namespace mneme {
namespace {

const std::string kConfigs = MNEME_SOURCE_DIR "/configs/";

TEST(Help, EveryVerbHasExamplesAndExitCodes) {
  Workplace place;
  const Ran general = place.Run("help");
  EXPECT_EQ(general.code, 0);
  EXPECT_EQ(place.Run("--help").out, general.out);
  for (const std::string verb : {"prepare", "train", "evaluate", "generate", "analyze", "report",
                                 "plan", "sweep", "convert", "inspect", "config"}) {
    EXPECT_NE(general.out.find("  " + verb + " "), std::string::npos) << verb;
    const Ran help = place.Run(verb + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_EQ(help.err, "");
    EXPECT_GE(Count(help.out, "  mneme " + verb) + Count(help.out, "mneme " + verb + " "), 3)
        << help.out;
    EXPECT_NE(help.out.find("Exit codes: 0 done"), std::string::npos);
    EXPECT_NE(help.out.find("--json"), std::string::npos);
    EXPECT_EQ(place.Run("help " + verb).out, help.out);
  }
  EXPECT_EQ(place.Run("").code, 2);
  EXPECT_TRUE(place.Files().empty());
}

// What the examples name is not there, but each must be understood.
TEST(Help, ExamplesAreUnderstood) {
  Workplace place;
  for (const std::string verb : {"prepare", "evaluate", "generate", "analyze", "report", "plan",
                                 "sweep", "convert", "inspect", "config"}) {
    std::istringstream help(place.Run(verb + " --help").out);
    for (std::string line; std::getline(help, line);) {
      if (line.rfind("  mneme ", 0) != 0 || line.back() == '\\') continue;
      const Ran ran = place.Run(line.substr(8));
      EXPECT_EQ(ran.err.find("unknown"), std::string::npos) << line << "\n" << ran.err;
      EXPECT_EQ(ran.err.find("see mneme help"), std::string::npos) << line << "\n" << ran.err;
    }
  }
}

TEST(Version, NamesCommitCompilerAndLibraries) {
  Workplace place;
  const Ran version = place.Run("--version");
  EXPECT_EQ(version.code, 0);
  for (const char* part :
       {"mneme ", "(commit ", "compiler: ", "mpi: ", "hdf5: 1.", "blas: OpenBLAS"}) {
    EXPECT_NE(version.out.find(part), std::string::npos) << version.out;
  }
}

struct Wrong {
  const char* arguments;
  int code;
  std::vector<std::string> expected;
};

class WrongUsage : public testing::TestWithParam<Wrong> {};

TEST_P(WrongUsage, IsOneMessageAndLeavesNothing) {
  Workplace place;
  const Ran ran = place.Run(GetParam().arguments);
  EXPECT_EQ(ran.code, GetParam().code) << ran.err;
  EXPECT_EQ(ran.out, "");
  for (const std::string& part : GetParam().expected)
    EXPECT_NE(ran.err.find(part), std::string::npos) << ran.err;
  EXPECT_EQ(Count(ran.err, GetParam().expected[0]), 1) << ran.err;
  EXPECT_EQ(ran.err.rfind("mneme", 0), 0u) << ran.err;
  EXPECT_TRUE(place.Files().empty());
}

const Wrong kWrong[] = {
    {"trian x.yaml", 2, {"unknown verb 'trian'; nearest: train"}},
    {"evalute x", 2, {"nearest: evaluate"}},
    {MNEME_SOURCE_DIR "/configs/runs/tiny.yaml",
     2,
     {"is a file, not a verb; did you mean: mneme train"}},
    {"train", 2, {"names no config"}},
    {"train nowhere.yaml", 2, {"nowhere.yaml: no such file"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tinny.yaml",
     2,
     {"no such file; nearest: ", "tiny.yaml"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs", 2, {"is a folder, not a file"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --dryrun",
     2,
     {"unknown option --dryrun; nearest: --dry-run"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml other.yaml",
     2,
     {"'other.yaml' is neither an option nor key=value"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml model.layerz=3",
     2,
     {"command line: model.layerz: unknown key; nearest: model.layers"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --train.stepz=3",
     2,
     {"nearest: train.steps"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml train.steps=many",
     2,
     {"train.steps: 'many' is not a whole number"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml model.moe.top_k=99",
     2,
     {"top_k 99 is more than the 16 experts"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml device=gpu",
     2,
     {"device: gpu is asked for"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --world-size 4",
     2,
     {"--world-size goes with --dry-run"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --dry-run --world-size 5",
     2,
     {"tiny.yaml:", "train.batch_sequences: 24 sequences cannot be dealt evenly to 5 ranks",
      "20 or 25", "4 or 6"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --dry-run --world-size 4 parallel.memory=3",
     2,
     {"parallel.memory: an axis of 3 does not divide 4 ranks; nearest: 2 or 4"}},
    {"train " MNEME_SOURCE_DIR
     "/configs/runs/tiny.yaml --dry-run --world-size 32 train.batch_sequences=32 parallel.expert=0",
     2,
     {"0 means all 32 ranks, but there are only 16 experts to spread", "up to 16"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --dry-run --world-size four",
     2,
     {"--world-size"}},
    {"train " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml data.train=no/such/corpus",
     3,
     {"no/such/corpus"}},
    {"train " MNEME_SOURCE_DIR "/configs/models/tiny.yaml",
     2,
     {"data.train: names no corpus", "train.steps: is 0"}},
    {"config", 2, {"neither schema, resolve nor from-hf"}},
    {"config reslove x.yaml",
     2,
     {"'reslove' is neither schema, resolve nor from-hf; nearest: resolve"}},
    {"config resolve", 2, {"names no config"}},
    {"config resolve nowhere.yaml", 2, {"nowhere.yaml: no such file"}},
    {"config schema x", 2, {"takes no file"}},
    {"sweep --fit cells.csv sweep.yaml", 2, {"take what they name alone, not 'sweep.yaml' too"}},
    {"convert --from a --to b --format mneme model.hidden=1",
     2,
     {"'model.hidden=1' goes with --add-engram only"}},
    {"convert --from a --to b --format gguf", 2, {"--format gguf: mneme or huggingface"}},
    {"inspect", 2, {"path"}},
    {"inspect nowhere", 3, {"nowhere: does not exist; give a checkpoint"}},
    {"plan", 2, {"names no config"}},
    {"plan " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --price -1", 2, {"--price"}},
    {"plan " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --device " MNEME_SOURCE_DIR
     "/configs/runs/tiny.yaml",
     2,
     {"data: unknown key; nearest: name"}},
    {"sweep --verify nowhere", 3, {"nowhere/MANIFEST"}},
    {"evaluate", 2, {"checkpoint"}},
    {"evaluate nowhere --data x", 3, {"nowhere"}},
    {"evaluate nowhere --ngrams 9", 2, {"--ngrams"}},
    {"evaluate nowhere --data ''", 2, {"an argument behind '--data' is empty"}},
    {"report ''", 2, {"an argument is empty"}},
    {"report nowhere --svg=", 2, {"'--svg=' is empty"}},
    {"evaluate nowhere --sequence-length 4611686018427387904", 2, {"--sequence-length"}},
    {"evaluate nowhere --yarn-scale nan", 2, {"--yarn-scale: 'nan' is no number of at least 0"}},
    {"generate nowhere --prompt x --temperature nan", 2, {"--temperature"}},
    {"generate nowhere --prompt x --top-p nan", 2, {"--top-p"}},
    {"plan " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml --price inf", 2, {"--price"}},
    {"plan " MNEME_SOURCE_DIR "/configs/runs/tiny.yaml train.sequence_length=536870912",
     2,
     {"tokens of a batch", "at most 2147483647"}},
    {"generate nowhere --prompt x", 3, {"nowhere"}},
    {"generate nowhere --prompt x --temperature -1", 2, {"--temperature"}},
    {"generate nowhere --promt x", 2, {"unknown option --promt; nearest: --prompt"}},
    {"analyze nowhere", 3, {"nowhere"}},
    {"report nowhere", 3, {"nowhere"}},
    {"prepare", 2, {"--input"}},
    {"prepare --input x.txt", 2, {"--output"}},
    {"prepare --input nowhere.txt --output c", 2, {"nowhere.txt"}},
    {"prepare --input nowhere.txt --output c --held-out 2", 2, {"held"}},
    {"prepare --input " MNEME_SOURCE_DIR "/README.md --output c --eos 1",
     2,
     {"--eos is for token ids (.npy); this input is text"}},
    {"prepare --input nowhere.txt --output c --document-bytes 4611686018427387904",
     2,
     {"--document-bytes is 4611686018427387904"}},
};

INSTANTIATE_TEST_SUITE_P(Cases, WrongUsage, testing::ValuesIn(kWrong),
                         [](const auto& test) { return "Case" + std::to_string(test.index); });

TEST(Config, SchemaIsTheDocument) {
  Workplace place;
  std::ifstream document(MNEME_SOURCE_DIR "/docs/configuration.md");
  const std::string text{std::istreambuf_iterator<char>(document), {}};
  EXPECT_EQ(place.Run("config schema").out, text);
  const auto json = nlohmann::json::parse(place.Run("config schema --json").out);
  EXPECT_GT(json.size(), 100u);
  EXPECT_EQ(json[0]["key"], "run.dir");
}

TEST(Config, ResolveCountsAsThePaperDoes) {
  Workplace place;
  // Billions without vocabulary and with one matrix (arXiv 2601.07372).
  const std::vector<std::tuple<std::string, double, double>> totals = {
      {"dense_4b", 3.803, 4.134},
      {"moe_27b", 26.386, 26.717},
      {"engram_27b", 26.395, 26.726},
      {"engram_40b", 39.137, 39.468}};
  for (const auto& [name, without, with] : totals) {
    const Ran ran = place.Run("config resolve " + kConfigs + "models/" + name + ".yaml --json");
    ASSERT_EQ(ran.code, 0) << ran.err;
    const auto json = nlohmann::json::parse(ran.out);
    EXPECT_NEAR(json["paper"]["total_without_vocabulary"].get<double>() / 1e9 / without, 1.0, 1e-3)
        << name;
    EXPECT_NEAR(json["paper"]["total"].get<double>() / 1e9 / with, 1.0, 1e-3) << name;
    for (const char* key : {"total", "active", "sparse", "table"})
      EXPECT_TRUE(json["plain"].contains(key));
    EXPECT_GT(json["flops_per_token"].get<double>(), 1e10);
    EXPECT_EQ(json["config"]["model"]["layers"], 30);
  }
}

// The geometries proposed for the sweeps come to the sizes that the paper names (9.3).
TEST(Config, SweepModelsHaveTheirSizes) {
  Workplace place;
  const std::vector<std::tuple<std::string, double, double>> sizes = {
      {"sweep_2e20", 565.4e6, 5.702e9},
      {"sweep_6e20", 996.9e6, 9.956e9},
      {"memory_3b", 572.9e6, 2.979e9 + 1.6632e9}};
  for (const auto& [name, active, total] : sizes) {
    const auto json = nlohmann::json::parse(
        place.Run("config resolve " + kConfigs + "models/" + name + ".yaml --json").out);
    EXPECT_NEAR(json["paper"]["active"].get<double>() / active, 1.0, 1e-3) << name;
    EXPECT_NEAR(json["paper"]["total_without_vocabulary"].get<double>() / total, 1.0, 1e-3) << name;
  }
  const auto dense = nlohmann::json::parse(
      place.Run("config resolve " + kConfigs + "models/dense_124m.yaml --json").out);
  EXPECT_NEAR(dense["plain"]["total"].get<double>(), 159e6, 1e6);
}

TEST(Config, WhatResolvePrintsIsAConfig) {
  Workplace place;
  const Ran first = place.Run("config resolve " + kConfigs +
                              "runs/extend_tiny.yaml optim.lr=0.1234567890123456789");
  ASSERT_EQ(first.code, 0) << first.err;
  place.Write("again.yaml", first.out);
  EXPECT_EQ(place.Run("config resolve again.yaml").out, first.out);
}

TEST(DryRun, DescribesAnyWorldAndWritesNothing) {
  Workplace place;
  const std::string run = "train " + kConfigs +
                          "runs/engram_100b_rows.yaml --dry-run --world-size 16 parallel.memory=8";
  const Ran text = place.Run(run);
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* part :
       {"16 ranks: experts over 1, memory over 8", "2 sequences a rank", "nothing was allocated"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << text.out;
  }
  const auto json = nlohmann::json::parse(place.Run(run + " --json").out);
  EXPECT_EQ(json["ranks"], 16);
  EXPECT_EQ(json["memory"], 8);
  EXPECT_GE(json["parameters"]["plain"]["table"].get<double>(), 1.6e12);
  EXPECT_GT(json["bytes_per_rank"]["total"].get<double>(), 0.0);
  EXPECT_TRUE(place.Files().empty());
}

TEST(Plan, SaysWhatAModelTakesAndWhatIsUnknown) {
  Workplace place;
  const std::string plan = "plan " + kConfigs + "models/moe_335m.yaml train.precision=bf16 ";
  const Ran text = place.Run(plan + "--device=h100 --price 2");
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* part :
       {"routed experts", "activations", "together", "tokens/s", "none breaks"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << text.out;
  }
  const auto json = nlohmann::json::parse(place.Run(plan + "--device h100 --json").out);
  EXPECT_NEAR(json["parameters"]["total"].get<double>(), 335.3e6, 0.1e6);
  EXPECT_GT(json["bytes_per_rank"]["activations"].get<double>(), 1e9);
  EXPECT_GT(json["stages"][0]["seconds_per_step"].get<double>(), 0.0);
  EXPECT_EQ(json["breaks"], "");
  const Ran unknown = place.Run(plan + "--device h20");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.err.find("nearest: h200"), std::string::npos) << unknown.err;
  EXPECT_EQ(place.Run(plan + "--ranks 3").code, 2);
  EXPECT_TRUE(place.Files().empty());
}

}  // namespace
}  // namespace mneme
