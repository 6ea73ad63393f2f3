// Held-out scoring, generation and gate analysis on a small trained model.
#include "engine/evaluation/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "data/tokenizer.h"
#include "engine/evaluation/analyze.h"
#include "engine/evaluation/evaluate.h"
#include "engine/evaluation/generate.h"
#include "engine/loaded_model.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

// A model of a few steps, made once for all tests of this file.
class ScoreTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    temp_ = std::make_unique<TempFolder>();
    run_ = TinyRun(temp_->path(), {"run.dir=" + temp_->path() + "/run", "train.steps=12",
                                   "train.sequence_length=32", "train.batch_sequences=8"});
    ASSERT_EQ(TrainThreads(1, run_).exit_code, 0);
    PrepareText(MakeText(77, 3000), temp_->path() + "/other");
  }
  static void TearDownTestSuite() { temp_.reset(); }

  static HeldOutConfig Set(int64_t sequences) {
    return {"other", temp_->path() + "/other", sequences};
  }

  // Runs `body` with the trained model on so many ranks.
  static void OnRanks(int ranks, const ParallelConfig& parallel,
                      const std::function<void(World&, LoadedModel&, const HeldOut&)>& body) {
    ThreadWorld::Run(ranks, [&](World& world) {
      auto model = LoadModel(world, run_.run.dir, parallel);
      ASSERT_TRUE(model.ok()) << model.status();
      const auto set = HeldOut::Open(Set(7), "reset", (*model)->sequence_length);
      ASSERT_TRUE(set.ok()) << set.status();
      body(world, **model, **set);
    });
  }

  static HeldOutResult Score(int ranks, const ParallelConfig& parallel, int64_t micro,
                             bool memory_off = false) {
    HeldOutResult result;
    OnRanks(ranks, parallel, [&](World& world, LoadedModel& model, const HeldOut& set) {
      const auto mine =
          Evaluate(world, model.context(), model.stack(), set, "other", micro, memory_off);
      ASSERT_TRUE(mine.ok()) << mine.status();
      if (world.rank() == 0) result = *mine;
    });
    return result;
  }

  static std::unique_ptr<TempFolder> temp_;
  static RunConfig run_;
};
std::unique_ptr<TempFolder> ScoreTest::temp_;
RunConfig ScoreTest::run_;

TEST_F(ScoreTest, TheLossIsTheSameOnEveryLayoutAndMicroBatch) {
  const HeldOutResult one = Score(1, {}, 7);
  EXPECT_GT(one.tokens, 150);
  EXPECT_GT(one.loss, 0.5);
  EXPECT_LT(one.loss, std::log(258.0));
  for (const auto& [ranks, parallel, micro] : std::vector<std::tuple<int, ParallelConfig, int64_t>>{
           {1, {}, 1}, {1, {}, 3}, {2, {2, 1}, 2}, {3, {1, 3}, 1}, {4, {4, 2}, 0}}) {
    const HeldOutResult other = Score(ranks, parallel, micro);
    EXPECT_EQ(other.tokens, one.tokens);
    EXPECT_NEAR(other.loss, one.loss, 1e-12) << ranks << " ranks";
    ASSERT_EQ(other.loss_by_position.size(), 32u);
    EXPECT_NEAR(other.loss_by_position[5], one.loss_by_position[5], 1e-12);
  }
}

TEST_F(ScoreTest, LossesByDocumentAddUpAndAreTheSameOnEveryLayout) {
  const HeldOutResult one = Score(1, {}, 7);
  ASSERT_GT(one.documents.size(), 2u);
  int64_t tokens = 0;
  double nats = 0.0;
  for (const DocumentScore& document : one.documents) {
    EXPECT_GT(document.tokens, 0);
    tokens += document.tokens;
    nats += document.nats;
  }
  EXPECT_EQ(tokens, one.tokens);
  EXPECT_NEAR(nats / static_cast<double>(tokens), one.loss, 1e-12);
  const HeldOutResult spread = Score(3, {1, 3}, 1);
  ASSERT_EQ(spread.documents.size(), one.documents.size());
  for (size_t d = 0; d < one.documents.size(); ++d) {
    EXPECT_EQ(spread.documents[d].tokens, one.documents[d].tokens);
    EXPECT_NEAR(spread.documents[d].nats, one.documents[d].nats, 1e-10);
  }
}

TEST_F(ScoreTest, BitsPerByteFollowFromTheLoss) {
  const HeldOutResult result = Score(1, {}, 7);
  // Every counted target but the ends of documents is one byte.
  EXPECT_GE(result.bits_per_byte, result.loss / std::log(2.0) - 1e-12);
  EXPECT_LT(result.bits_per_byte, result.loss / std::log(2.0) * 1.05);
}

TEST_F(ScoreTest, WithoutMemoryTheLossIsAnother) {
  EXPECT_GT(std::fabs(Score(1, {}, 7, true).loss - Score(1, {}, 7).loss), 1e-6);
}

TEST_F(ScoreTest, UnigramEntropyLiesBetweenNothingAndUniform) {
  auto loader = Loader::Open(run_.data, 32).value();
  auto set = HeldOut::Open(Set(0), "reset", 32).value();
  const double entropy = UnigramEntropy(*loader, *set);
  EXPECT_GT(entropy, 1.0);
  EXPECT_LT(entropy, std::log(64.0));
}

TEST_F(ScoreTest, GenerationIsTheSameOnEveryLayoutAndForEverySeed) {
  std::vector<int32_t> prompt;
  ByteTokenizer()->Encode("the ", prompt);
  const auto make = [&](int ranks, const ParallelConfig& parallel, uint64_t seed, bool gates) {
    std::vector<int32_t> ids;
    OnRanks(ranks, parallel, [&](World& world, LoadedModel& model, const HeldOut&) {
      GenerateOptions options;
      options.tokens = 40;
      options.context = model.sequence_length;
      options.seed = seed;
      options.with_gates = gates;
      std::vector<GeneratedToken> told, shown;
      const auto made = Generate(
          model.context(), model.stack(), prompt, static_cast<int32_t>(kByteEos), options,
          [&](const GeneratedToken& token) { told.push_back(token); }, &shown);
      ASSERT_EQ(told.size(), made.size());
      for (size_t i = 0; i < made.size(); ++i) {
        EXPECT_EQ(told[i].id, made[i].id);
        EXPECT_EQ(told[i].gate, made[i].gate);
        EXPECT_EQ(made[i].gate > 0.0 && made[i].gate < 1.0, gates);
      }
      EXPECT_EQ(shown.size(), gates ? prompt.size() : 0u);
      if (world.rank() != 0) return;
      for (const GeneratedToken& token : made) ids.push_back(token.id);
    });
    return ids;
  };
  const std::vector<int32_t> one = make(1, {}, 1, false);
  EXPECT_GT(one.size(), 5u);
  EXPECT_EQ(make(1, {}, 1, true), one);
  EXPECT_EQ(make(2, {2, 2}, 1, false), one);
  EXPECT_NE(make(1, {}, 2, false), one);
}

// The gates of a prompt do not depend on what comes after it, nor on whether anything does.
TEST_F(ScoreTest, APromptThatNothingFollowsHasItsGates) {
  std::vector<int32_t> prompt;
  ByteTokenizer()->Encode("the land of the", prompt);
  OnRanks(2, {2, 2}, [&](World&, LoadedModel& model, const HeldOut&) {
    const auto shown = [&](int64_t tokens, bool gates) {
      GenerateOptions options;
      options.tokens = tokens;
      options.context = model.sequence_length;
      options.with_gates = gates;
      std::vector<GeneratedToken> text;
      const auto made = Generate(model.context(), model.stack(), prompt,
                                 static_cast<int32_t>(kByteEos), options, {}, &text);
      EXPECT_LE(static_cast<int64_t>(made.size()), tokens);
      return text;
    };
    const auto alone = shown(0, true);
    const auto before = shown(1, true);
    ASSERT_EQ(alone.size(), prompt.size());
    ASSERT_EQ(before.size(), prompt.size());
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(alone[i].id, prompt[i]);
      EXPECT_EQ(alone[i].gate, before[i].gate);
      EXPECT_GT(alone[i].gate, 0.0);
    }
    EXPECT_TRUE(shown(0, false).empty());
  });
}

TEST_F(ScoreTest, GateReportIsTheSameOnEveryLayout) {
  const auto analyze = [&](int ranks, const ParallelConfig& parallel) {
    GateReport report;
    OnRanks(ranks, parallel, [&](World& world, LoadedModel& model, const HeldOut& set) {
      AnalyzeOptions options;
      options.least = 2;
      options.count = 5;
      const GateReport mine = AnalyzeGates(world, model.context(), model.stack(), set, options);
      if (world.rank() + 1 == world.size()) report = mine;
    });
    return report;
  };
  const GateReport one = analyze(1, {});
  ASSERT_EQ(one.largest.size(), 5u);
  EXPECT_EQ(one.sample.size(), 32u);
  EXPECT_GT(one.positions, 100);
  for (size_t i = 0; i < one.largest.size(); ++i) {
    EXPECT_EQ(one.largest[i].ids.size(), 3u);  // the model's largest order
    EXPECT_GE(one.largest[i].count, 2);
    EXPECT_GT(one.largest[i].gate, one.mean);
    EXPECT_LE(one.largest[i].gate, i > 0 ? one.largest[i - 1].gate : 1.0);
  }
  const GateReport two = analyze(2, {2, 2});
  EXPECT_EQ(two.positions, one.positions);
  EXPECT_NEAR(two.mean, one.mean, 1e-12);
  ASSERT_EQ(two.largest.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(two.largest[i].ids, one.largest[i].ids);
}

TEST_F(ScoreTest, AMissingCheckpointIsNamed) {
  ThreadWorld::Run(2, [&](World& world) {
    const auto model = LoadModel(world, temp_->path() + "/nowhere");
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(ExitCode(model.status()), 3);
    EXPECT_NE(model.status().message().find("nowhere"), absl::string_view::npos);
  });
}

TEST(PickToken, ObeysTemperatureTopKAndTopP) {
  const std::vector<double> logits = {0.0, 3.0, 1.0, 2.0};
  GenerateOptions options;
  options.temperature = 0.0;
  EXPECT_EQ(PickToken(logits, options, 0.999), 1);
  options.temperature = 1.0;
  EXPECT_EQ(PickToken(logits, options, 0.0), 1);
  EXPECT_EQ(PickToken(logits, options, 0.999999), 0);
  // exp(3), exp(2), exp(1), exp(0): the likeliest has 0.6439 of the mass.
  EXPECT_EQ(PickToken(logits, options, 0.643), 1);
  EXPECT_EQ(PickToken(logits, options, 0.645), 3);
  options.top_k = 2;
  EXPECT_EQ(PickToken(logits, options, 0.999999), 3);
  options.top_k = 0;
  options.top_p = 0.9;  // 0.6439 + 0.2369 < 0.9: a third is needed
  EXPECT_EQ(PickToken(logits, options, 0.999999), 2);
  options.top_p = 0.0;
  EXPECT_EQ(PickToken(logits, options, 0.999999), 1);
  EXPECT_EQ(PickToken({1.0, 1.0}, {}, 0.0), 0);  // ties go to the lower id
}

std::vector<GeneratedToken> Shaded(const std::string& text) {
  std::vector<GeneratedToken> tokens;
  for (size_t i = 0; i < text.size(); ++i) {
    tokens.push_back({static_cast<unsigned char>(text[i]),
                      text[i] == 'X' ? 0.9 : 0.001 * static_cast<double>(i)});
  }
  return tokens;
}

TEST(ShadeText, MarksTheWidestGatesUnderTheText) {
  const auto tokenizer = ByteTokenizer();
  const std::string text =
      ShadeText(Shaded("abcdefghijklmnopqrstuvwxyX\nnext"), tokenizer.get(), false);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  const size_t at = text.find('X');
  const size_t line = text.find('\n', at) + 1;
  EXPECT_EQ(text[line + at], '#') << text;  // the mark stands under the letter
  EXPECT_EQ(text[line + text.find('a')], ' ') << text;
}

TEST(ShadeText, ColoursWholeCharacters) {
  const auto tokenizer = ByteTokenizer();
  std::vector<GeneratedToken> tokens = Shaded("aaaaaaaaaaaaaaaaaaaaé");
  tokens.back().gate = 0.9;
  const std::string text = ShadeText(tokens, tokenizer.get(), true);
  EXPECT_NE(text.find("mé\x1b[0m"), std::string::npos) << text;
}

TEST(ShadeText, ShowsBytesThatAreNoTextAsOneSign) {
  const auto tokenizer = ByteTokenizer();
  EXPECT_EQ(ShadeText(Shaded("a\xff"
                             "b"),
                      tokenizer.get(), false)
                .substr(0, 7),
            "  a\xEF\xBF\xBD"
            "b");
}

TEST(ShowIds, QuotesTextAndListsNumbers) {
  const auto tokenizer = ByteTokenizer();
  EXPECT_EQ(ShowIds({'M', 'r', '.'}, tokenizer.get()), "\"Mr.\"");
  EXPECT_EQ(ShowIds({7, 12}, nullptr), "[7 12]");
}

}  // namespace
}  // namespace mneme
