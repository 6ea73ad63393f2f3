// The program under mpirun: one message, one result, the launcher passes the exit code on.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/launch/program.h"

namespace mneme {
namespace {

std::string Ranks(int n) {
  return "env -u OMP_NUM_THREADS '" MNEME_MPIEXEC "' -n " + std::to_string(n);
}

TEST(Mpi, UsageErrorsAreSaidOnce) {
  Workplace place;
  Ran ran = place.Run("trian x", Ranks(3));
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(Count(ran.err, "unknown verb"), 1) << ran.err;
  ran = place.Run("train '" MNEME_SOURCE_DIR "/configs/runs/tiny.yaml' model.layerz=3", Ranks(3));
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(Count(ran.err, "model.layerz: unknown key"), 1) << ran.err;
  ran = place.Run("train '" MNEME_SOURCE_DIR "/configs/runs/tiny.yaml' train.batch_sequences=25",
                  Ranks(3));
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(Count(ran.err, "25 sequences cannot be dealt evenly to 3 ranks"), 1) << ran.err;
  ran = place.Run("evaluate nowhere --data x", Ranks(2));
  EXPECT_EQ(ran.code, 3);
  EXPECT_EQ(Count(ran.err, "mneme: "), 1) << ran.err;
  EXPECT_TRUE(place.Files().empty());
}

TEST(Mpi, HelpAndResultsAreSaidOnce) {
  Workplace place;
  EXPECT_EQ(Count(place.Run("help", Ranks(3)).out, "Usage: mneme"), 1);
  const Ran ran = place.Run(
      "config resolve '" MNEME_SOURCE_DIR "/configs/models/dense_4b.yaml' --json", Ranks(3));
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(nlohmann::json::parse(ran.out)["vocabulary"], 129280);
}

TEST(Mpi, TrainsEvaluatesAndGeneratesOnTwoRanks) {
  Workplace place;
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += "line " + std::to_string(i * 7919 % 1000) + " of some text to learn from\n\n";
  place.Write("text.txt", text);
  ASSERT_EQ(
      place.Run("prepare --input text.txt --output corpus --document-bytes 1000 --held-out 0.2")
          .code,
      0);
  const std::string train =
      "train '" MNEME_SOURCE_DIR
      "/configs/runs/tiny.yaml' data.train=corpus/train train.sequence_length=32 "
      "train.steps=3 parallel.expert=2 parallel.memory=2";
  Ran ran = place.Run(train, Ranks(2));
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(Count(place.Read("runs/tiny/metrics.jsonl"), "\n"), 3);
  EXPECT_EQ(ran.err.find("warning: a rank has"), std::string::npos)
      << "one thread a rank by default: " << ran.err;
  const std::string evaluate = "evaluate runs/tiny --data corpus/held_out --json";
  const auto two = nlohmann::json::parse(place.Run(evaluate + " --memory 2", Ranks(2)).out);
  const auto one = nlohmann::json::parse(place.Run(evaluate).out);
  EXPECT_NEAR(two["sets"][0]["score"]["loss"].get<double>(),
              one["sets"][0]["score"]["loss"].get<double>(), 1e-5);
  ran = place.Run("generate runs/tiny --prompt 'line ' --tokens 8 --json", Ranks(2));
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(nlohmann::json::parse(ran.out)["ids"].size() <= 8u);
}

}  // namespace
}  // namespace mneme
