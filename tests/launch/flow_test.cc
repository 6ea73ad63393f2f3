// From text to a trained model and back to text, by the program alone.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/core/random.h"
#include "tests/launch/program.h"

namespace mneme {
namespace {

std::string Prose() {
  static const char* const kWords[] = {"the ",   "a ",    "house ", "of ",    "Mr. Bell ",
                                       "stood ", "near ", "every ", "river ", "and "};
  const RandomKey key = MakeKey(1, "prose");
  std::string text;
  for (uint64_t i = 0; text.size() < 20000; ++i) {
    text += kWords[RandomInt(key, i, 10)];
    if (i % 12 == 11) text += ".\n\n";
  }
  return text;
}

// corpus/train and corpus/held_out.
void PrepareProse(const Workplace& place) {
  place.Write("text.txt", Prose());
  const Ran ran =
      place.Run("prepare --input text.txt --output corpus --document-bytes 1000 --held-out 0.2");
  ASSERT_EQ(ran.code, 0) << ran.err;
}

const std::string kTrain =
    "train '" MNEME_SOURCE_DIR
    "/configs/runs/tiny.yaml' data.train=corpus/train train.sequence_length=32 "
    "\"evaluate.sets=[{name: ho, data: corpus/held_out, sequences: 6}]\" ";

TEST(Flow, PrepareTrainResumeEvaluateGenerateAnalyzeReport) {
  Workplace place;
  place.Write("my text.txt", Prose());
  const Ran prepared = place.Run(
      "prepare --input 'my text.txt' --output corpus --document-bytes 1000 --held-out 0.2 --json");
  ASSERT_EQ(prepared.code, 0) << prepared.err;
  EXPECT_EQ(nlohmann::json::parse(prepared.out)["corpora"].size(), 2u);

  // The folder's default is runs/<name of the file>, here.
  Ran ran = place.Run(kTrain + "train.steps=4 --train.checkpoint_every=2");
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(Count(place.Read("runs/tiny/metrics.jsonl"), "\n"), 4);
  // Finished: ends at once. More steps: goes on. Another model: refused, key by key.
  EXPECT_EQ(place.Run(kTrain + "train.steps=4").code, 0);
  EXPECT_EQ(Count(place.Read("runs/tiny/metrics.jsonl"), "\n"), 4);
  ran = place.Run(kTrain + "train.steps=6 --json");
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(Count(place.Read("runs/tiny/metrics.jsonl"), "\n"), 6);
  EXPECT_TRUE(nlohmann::json::parse(ran.out).contains("validation_loss"));
  ran = place.Run(kTrain + "train.steps=6 model.hidden=64 optim.lr=1");
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("model.hidden"), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("optim.lr"), std::string::npos) << ran.err;

  ran = place.Run("evaluate runs/tiny --data corpus/held_out --memory-off --ngrams 3 --json");
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto scores = nlohmann::json::parse(ran.out);
  EXPECT_EQ(scores["step"], 6);
  EXPECT_GT(scores["sets"][0]["score"]["loss"].get<double>(), 0.5);
  EXPECT_EQ(scores["sets"][0]["ngrams"].size(), 3u);
  EXPECT_TRUE(scores["sets"][0].contains("memory_off"));

  ran = place.Run("generate runs/tiny --prompt 'the ' --tokens 12 --gates --json");
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto made = nlohmann::json::parse(ran.out);
  EXPECT_EQ(made["ids"].size(), made["gates"].size());
  EXPECT_EQ(place.Run("generate runs/tiny --prompt 'the ' --tokens 12 --gates --json").out,
            ran.out);
  const Ran shaded = place.Run("generate runs/tiny --prompt 'the ' --tokens 12 --gates");
  EXPECT_EQ(shaded.code, 0) << shaded.err;
  EXPECT_NE(shaded.out.find("the "), std::string::npos) << shaded.out;
  EXPECT_EQ(shaded.out.find('\x1b'), std::string::npos);
  const Ran prompt = place.Run("generate runs/tiny --prompt 'the ' --tokens 0 --gates");
  EXPECT_NE(prompt.out.find("the "), std::string::npos) << prompt.out;
  EXPECT_EQ(place.Run("generate runs/tiny").code, 2);

  ran = place.Run("analyze runs/tiny --least 2 --json");
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(nlohmann::json::parse(ran.out)["largest"].size(), 10u);
  EXPECT_NE(place.Run("analyze runs/tiny").out.find("gates open widest"), std::string::npos);

  ran = place.Run("report runs/tiny --svg loss.svg");
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("training loss"), std::string::npos);
  EXPECT_NE(place.Read("loss.svg").find("</svg>"), std::string::npos);
  EXPECT_EQ(
      nlohmann::json::parse(place.Run("report runs/tiny --json").out)["curves"][0]["points"].size(),
      6u);
}

// Held-out text is scored in the same way while a run trains and afterwards.
TEST(Flow, EvaluationIsThatOfTheRun) {
  Workplace place;
  PrepareProse(place);
  const Ran trained = place.Run(
      kTrain + "\"stages=[{steps: 3, data: {train: corpus/train, doc_boundary: ignore}}]\" --json");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto score = [&](const std::string& words) {
    const Ran ran = place.Run("evaluate runs/tiny --json " + words);
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out)["sets"][0]["score"];
  };
  const double after = score("")["loss"];
  EXPECT_NEAR(nlohmann::json::parse(trained.out)["validation_loss"].get<double>(), after, 1e-6);
  EXPECT_EQ(score("--sequences 2")["tokens"], 2 * 32);
  EXPECT_EQ(score("--data corpus/held_out/")["name"], "held_out");
  const std::string lines = place.Run("evaluate runs/tiny --ngrams 2").out;
  EXPECT_NE(lines.find("2-gram"), std::string::npos) << lines;
}

// A model from elsewhere knows no training corpus.
TEST(Flow, AnImportedModelIsScored) {
  Workplace place;
  PrepareProse(place);
  ASSERT_EQ(place
                .Run(kTrain +
                     "train.steps=1 model.engram.blocks=[] model.mhc.streams=1 model.moe.experts=0")
                .code,
            0);
  ASSERT_EQ(place.Run("convert --from runs/tiny --to out --format huggingface --no-logits").code,
            0);
  std::filesystem::remove(place.path() + "/out/mneme.json");
  ASSERT_EQ(place.Run("convert --from out --to back --format mneme").code, 0);
  EXPECT_EQ(place.Run("evaluate back --data corpus/held_out").code, 0);
  const Ran ran = place.Run("evaluate back --data corpus/held_out --ngrams 3");
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("--ngrams-from"), std::string::npos) << ran.err;
}

TEST(Flow, AModelWithoutMemoryHasNoGatesToShow) {
  Workplace place;
  PrepareProse(place);
  ASSERT_EQ(place.Run(kTrain + "train.steps=1 model.engram.blocks=[] model.moe.experts=0").code, 0);
  const Ran ran = place.Run("analyze runs/tiny");
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("no memory"), std::string::npos);
  EXPECT_EQ(place.Run("generate runs/tiny --prompt a --tokens 3 --gates").code, 0);
}

}  // namespace
}  // namespace mneme
