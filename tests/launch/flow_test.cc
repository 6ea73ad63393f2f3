// From text to a trained model and back to text, by the program alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

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

// One model, what it scores and makes by every word of its verbs.
class Trained : public testing::Test {
 protected:
  void SetUp() override {
    PrepareProse(place_);
    const Ran ran = place_.Run(
        kTrain + "\"stages=[{steps: 3, data: {train: corpus/train, doc_boundary: ignore}}]\"");
    ASSERT_EQ(ran.code, 0) << ran.err;
  }
  nlohmann::json Json(const std::string& words) const {
    const Ran ran = place_.Run(words + " --json");
    EXPECT_EQ(ran.code, 0) << words << ": " << ran.err;
    return nlohmann::json::parse(ran.out, nullptr, false);
  }
  void ExpectRefused(const std::string& words, const std::string& why) const {
    const Ran ran = place_.Run(words);
    EXPECT_EQ(ran.code, 2) << words << ": " << ran.err;
    EXPECT_EQ(ran.out, "") << words;
    EXPECT_EQ(Count(ran.err, "\n"), 1) << ran.err;
    EXPECT_NE(ran.err.find(why), std::string::npos) << ran.err;
  }

  Workplace place_;
};

TEST_F(Trained, AScoreIsTakenApart) {
  const std::string evaluate = "evaluate runs/tiny --data corpus/held_out --sequences 2 ";
  const auto set = Json(evaluate + "--by-position")["sets"][0];
  const double loss = set["score"]["loss"];
  const std::vector<double> positions = set["loss_by_position"];
  ASSERT_EQ(positions.size(), 32u);  // two whole sequences: every position counts alike
  EXPECT_NEAR(std::accumulate(positions.begin(), positions.end(), 0.0) / 32.0, loss, 1e-9);
  EXPECT_FALSE(Json(evaluate)["sets"][0].contains("loss_by_position"));
  const auto score = [&](const std::string& words) {
    return Json(evaluate + words)["sets"][0]["score"];
  };
  EXPECT_NEAR(score("--micro-batch 1")["loss"], loss, 1e-6);
  EXPECT_EQ(score("--sequence-length 16")["tokens"], 2 * 16);
  EXPECT_EQ(score("--yarn-scale 1")["loss"], loss);
  EXPECT_GT(std::abs(score("--yarn-scale 8")["loss"].get<double>() - loss), 1e-7);
  const auto both = Json("evaluate runs/tiny --data corpus/held_out corpus/train --sequences 1");
  EXPECT_EQ(both["sets"][1]["score"]["name"], "train");
}

TEST_F(Trained, WhatIsMadeObeysItsWords) {
  const auto ids = [&](const std::string& words) {
    return Json("generate runs/tiny --tokens 12 " + words)["ids"].get<std::vector<int>>();
  };
  const std::vector<int> made = ids("--prompt 'the '");
  EXPECT_EQ(ids("--prompt-ids 116,104,101,32"), made);
  EXPECT_EQ(ids("--prompt-ids 116,104 --prompt 'e '"), made);
  EXPECT_NE(ids("--prompt 'the ' --seed 2"), made);
  const std::vector<int> likeliest = ids("--prompt 'the ' --temperature 0");
  EXPECT_EQ(ids("--prompt 'the ' --temperature 0 --seed 2"), likeliest);
  EXPECT_EQ(ids("--prompt 'the ' --top-k 1 --seed 3"), likeliest);
  EXPECT_EQ(ids("--prompt 'the ' --top-p 0 --seed 4"), likeliest);
  const auto gates = [&](const std::string& words) {
    return Json("generate runs/tiny --prompt 'the ' --tokens 3 --gates " + words)["gates"];
  };
  for (const double gate : gates("")) EXPECT_GT(gate, 0.0);
  for (const double gate : gates("--memory-off")) EXPECT_EQ(gate, 0.0);
  ExpectRefused("generate runs/tiny --prompt-ids 5,258", "258 is no id of the vocabulary");
  ExpectRefused("generate runs/tiny --prompt-ids=-1", "-1 is no id of the vocabulary");
}

TEST_F(Trained, NgramsOfAnyLengthAreLookedAt) {
  const std::string analyze = "analyze runs/tiny --data corpus/train --least 1 ";
  const auto two = Json(analyze + "--order 2 --count 4 --sequences 3");
  ASSERT_EQ(two["largest"].size(), 4u);
  for (const auto& ngram : two["largest"]) EXPECT_EQ(ngram["ids"].size(), 2u);
  EXPECT_LE(two["positions"], 3 * 31);
  EXPECT_LT(Json(analyze + "--sequences 1")["positions"], two["positions"]);
  const std::string text = place_.Run(analyze + "--shown 0").out;
  EXPECT_EQ(text.find("a piece of it"), std::string::npos) << text;
}

TEST_F(Trained, WhatCannotBeScoredIsSaid) {
  ASSERT_EQ(place_.Run(kTrain + "train.steps=1 evaluate.sets=[] run.dir=bare").code, 0);
  ExpectRefused("evaluate bare", "the run has no evaluate.sets; give --data CORPUS");
  ExpectRefused("analyze bare", "the run has no evaluate.sets; give --data CORPUS");
  const Ran absent = place_.Run("evaluate bare --data nowhere");
  EXPECT_EQ(absent.code, 3);
  EXPECT_NE(absent.err.find("nowhere"), std::string::npos) << absent.err;
}

TEST_F(Trained, AReportKeepsFromOtherFilesAndTellsOfAnEnd) {
  place_.Write("notes.svg", "mine");
  ExpectRefused("report runs/tiny --svg notes.svg", "notes.svg: is something else already");
  EXPECT_EQ(place_.Read("notes.svg"), "mine");
  ExpectRefused("report runs/tiny --svg no/folder/loss.svg", "no/folder/loss.svg");
  EXPECT_TRUE(Json("report runs/tiny")["result"].contains("validation_loss"));
  ASSERT_EQ(place_.Run("report runs/tiny --svg loss.svg").code, 0);
  EXPECT_EQ(place_.Run("report runs/tiny --svg loss.svg").code, 0);  // its own it writes anew
  std::filesystem::remove(place_.path() + "/runs/tiny/result.json");
  EXPECT_TRUE(Json("report runs/tiny")["result"].is_null());
  EXPECT_NE(place_.Run("report runs/tiny").out.find("not finished"), std::string::npos);
}

// Little-endian ids of 16 bits.
std::string Npy(const std::vector<int>& ids) {
  std::string header =
      "{'descr': '<u2', 'fortran_order': False, 'shape': (" + std::to_string(ids.size()) + ",), }";
  header.resize(117, ' ');
  header += "\n";
  std::string bytes = std::string("\x93NUMPY\x01\x00", 8) + std::string("\x76\x00", 2) + header;
  for (const int id : ids) bytes += {static_cast<char>(id & 255), static_cast<char>(id >> 8)};
  return bytes;
}

TEST(Flow, IdsMadeElsewhereAreTrainedOnAndMade) {
  Workplace place;
  std::vector<int> ids;
  for (int i = 0; i < 6000; ++i) ids.push_back(i % 50 == 49 ? 1 : 3 + (i * i + i / 50) % 37);
  place.Write("ids.npy", Npy(ids));
  const std::string tokenizer = "{\"model\": {\"type\": \"WordLevel\"}}";
  place.Write("tokenizer.json", tokenizer);
  const Ran prepared = place.Run(
      "prepare --input ids.npy --output corpus --held-out 0.2 --eos 1 --bos 2 --vocabulary 40 "
      "--text-bytes 24000 --tokenizer-json tokenizer.json");
  ASSERT_EQ(prepared.code, 0) << prepared.err;
  const Ran trained = place.Run(kTrain + "train.steps=2 data.bos=true");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto made = nlohmann::json::parse(
      place.Run("generate runs/tiny --prompt-ids 5,6 --tokens 4 --json").out, nullptr, false);
  ASSERT_TRUE(made.contains("ids"));
  for (const int id : made["ids"]) EXPECT_LT(id, 40);
  // The tokenizer goes along, into checkpoints and conversions.
  EXPECT_EQ(place.Read("runs/tiny/checkpoints/step-2/tokenizer.json"), tokenizer);
  ASSERT_EQ(place.Run("convert --from runs/tiny --to out --format huggingface --no-logits").code,
            0);
  EXPECT_EQ(place.Read("out/tokenizer.json"), tokenizer);
  // The beginning of a document stands before what was given, in numbers.
  const Ran shaded = place.Run("generate runs/tiny --prompt-ids 5,6 --tokens 0 --gates");
  EXPECT_NE(shaded.out.find("2 5 6 "), std::string::npos) << shaded.out;
  const Ran text = place.Run("generate runs/tiny --prompt the");
  EXPECT_EQ(text.code, 2);
  EXPECT_NE(text.err.find("give --prompt-ids"), std::string::npos) << text.err;
  const auto gates =
      nlohmann::json::parse(place.Run("analyze runs/tiny --least 1 --json").out, nullptr, false);
  ASSERT_TRUE(gates.contains("largest"));
  EXPECT_EQ(gates["largest"][0]["ngram"].get<std::string>().front(), '[');
  const auto score =
      nlohmann::json::parse(place.Run("evaluate runs/tiny --json").out, nullptr, false);
  // Six thousand ids stand for 24,000 bytes: four bytes an id.
  const auto ho = score["sets"][0]["score"];
  EXPECT_NEAR(ho["bits_per_byte"], ho["loss"].get<double>() / std::log(2.0) / 4.0, 1e-3);
  const Ran ngrams = place.Run("evaluate runs/tiny --ngrams 2");
  EXPECT_EQ(ngrams.code, 2);
  EXPECT_NE(ngrams.err.find("n-grams are counted over bytes"), std::string::npos) << ngrams.err;
  // Ids of another vocabulary are none of its own.
  ASSERT_EQ(place
                .Run("prepare --input ids.npy --output wider --eos 1 --bos 2 --vocabulary 41 "
                     "--text-bytes 24000")
                .code,
            0);
  const Ran other = place.Run("evaluate runs/tiny --data wider");
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("wider: has another vocabulary (41 ids"), std::string::npos)
      << other.err;
}

// A run that cannot be read ends alone, and its exit code is that of all.
TEST(Flow, OfSeveralRunsEachEndsAlone) {
  Workplace place;
  PrepareProse(place);
  const std::string tiny = "include: " MNEME_SOURCE_DIR
                           "/configs/runs/tiny.yaml\ndata: {train: corpus/train}\n"
                           "train: {steps: 1, sequence_length: 32}\n";
  place.Write("one.yaml", tiny);
  place.Write("two.yaml", tiny + "run: {log: two.txt}\n");
  place.Write("bad.yaml", tiny + "optim: {lr: none}\n");
  const Ran ran = place.Run("train one.yaml bad.yaml two.yaml");
  EXPECT_EQ(ran.code, 2) << ran.err;
  ASSERT_EQ(Count(ran.out, "\n"), 3) << ran.out;
  std::istringstream lines(ran.out);
  std::string line;
  for (int i = 0; std::getline(lines, line); ++i) {
    const auto end = nlohmann::json::parse(line);
    EXPECT_EQ(end["exit_code"], end["config"] == "bad.yaml" ? 2 : 0) << line;
    EXPECT_EQ(end["config"] == "bad.yaml", i == 0) << "it is told of at once";
  }
  EXPECT_NE(ran.err.find("mneme: "), std::string::npos);
  EXPECT_NE(ran.err.find("optim.lr"), std::string::npos) << ran.err;
  // Lines of one that keeps no log of its own begin with its name; the other's are in its file.
  EXPECT_NE(ran.err.find("one.yaml: finished 1 steps"), std::string::npos) << ran.err;
  EXPECT_EQ(ran.err.find("two.yaml: "), std::string::npos) << ran.err;
  EXPECT_NE(place.Read("two.txt").find("\nfinished 1 steps"), std::string::npos);
  EXPECT_EQ(place.Run("train one.yaml two.yaml").code, 0);
}

TEST(Flow, ALogTakesTheWordsOfARun) {
  Workplace place;
  PrepareProse(place);
  const std::string train = kTrain + "train.steps=2 evaluate.sets=[] run.log=log.txt ";
  Ran ran = place.Run(train);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.err, "");
  EXPECT_NE(place.Read("log.txt").find("\nfinished 2 steps"), std::string::npos);
  ran = place.Run(train + "model.hidden=64");
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(Count(ran.err, "model.hidden"), 1) << ran.err;
  EXPECT_NE(place.Read("log.txt").find("\nmneme: "), std::string::npos);
  EXPECT_NE(place.Read("log.txt").find("model.hidden: 48 -> 64"), std::string::npos);
  ran = place.Run(kTrain + "train.steps=2 run.dir=other run.log=no/such/folder.txt");
  EXPECT_EQ(ran.code, 3) << ran.err;
  EXPECT_NE(ran.err.find("no/such/folder.txt: cannot open"), std::string::npos) << ran.err;
}

// What convert, inspect and config say is strict JSON too, and tells the same.
TEST(Flow, ConvertedInspectedAndMapped) {
  Workplace place;
  PrepareProse(place);
  const std::string plain =
      "train.steps=1 model.engram.blocks=[] model.mhc.streams=1 model.moe.experts=0 ";
  ASSERT_EQ(place.Run(kTrain + plain).code, 0);
  const auto json = [&](const std::string& words) {
    const Ran ran = place.Run(words + " --json");
    EXPECT_EQ(ran.code, 0) << words << ": " << ran.err;
    return nlohmann::json::parse(ran.out, nullptr, false);
  };
  const auto out = json("convert --from runs/tiny --to out --format huggingface --dtype f32");
  EXPECT_EQ(out["to"], "out");
  EXPECT_EQ(out["logits_difference"], 0.0);
  EXPECT_EQ(out["files"], 1);
  const auto back = json("convert --from out --to back --format mneme --no-logits");
  EXPECT_TRUE(back["logits_difference"].is_null());
  EXPECT_EQ(back["left_out"], 0);
  EXPECT_THAT(place.Run("convert --from out --to back --format mneme").err,
              testing::HasSubstr("is there already"));

  const auto held = json("inspect back");
  EXPECT_EQ(held["tensors"].size(), out["tensors"]);
  EXPECT_EQ(json("inspect back --names-only --matching embedding")["tensors"].size(), 1u);
  EXPECT_GT(json("inspect runs/tiny --moments")["tensors"].size(), held["tensors"].size());
  const auto same = json("inspect runs/tiny back");
  EXPECT_EQ(same["differing"].size(), 0u);
  const Ran text = place.Run("inspect runs/tiny out/model.safetensors");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, testing::HasSubstr("only in the first: "));
  EXPECT_THAT(place.Run("inspect back --config").out, testing::HasSubstr("model.hidden: 48"));
  EXPECT_EQ(place.Run("inspect nowhere").code, 3);

  const Ran yaml = place.Run("config from-hf out/config.json");
  ASSERT_EQ(yaml.code, 0) << yaml.err;
  place.Write("mapped.yaml", yaml.out);
  const auto mapped = json("config from-hf out/config.json");
  EXPECT_EQ(mapped["model"]["hidden"], 48);
  EXPECT_EQ(json("config resolve mapped.yaml")["config"]["model"], mapped["model"]);
  EXPECT_EQ(place.Run("config from-hf nowhere.json").code, 2);
  EXPECT_EQ(place.Run("config from-hf a.json b.json").code, 2);
}

}  // namespace
}  // namespace mneme
