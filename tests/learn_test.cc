// Does it learn? A known loss, and copying from context, each in under a minute.
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "engine/evaluation/evaluate.h"
#include "engine/loaded_model.h"
#include "kernels/core/random.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

// The test grammar draws the next word with probability 3/4 + 1/64 as the one that follows and 1/16
// each for 4 others: the entropy of a word is about 1.1 nats over about 5.6 bytes. A model that
// reads whole words comes near 0.25 nats a byte; one without memory or attention stays above 1.
TEST(Learn, ATinyModelReachesAKnownLoss) {
  TempFolder temp;
  const RunConfig config =
      TinyRun(temp.path(), {"train.precision=f32", "train.sequence_length=64",
                            "train.batch_sequences=16", "train.steps=250", "optim.lr=1e-2",
                            "optim.schedule={shape: cosine, warmup: 20}", "model.init_std=0.02"});
  const Outcome outcome = TrainThreads(1, config);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  double last = 0;
  for (size_t i = outcome.steps.size() - 10; i < outcome.steps.size(); ++i) {
    last += outcome.steps[i].loss / 10;
  }
  EXPECT_NEAR(outcome.steps.front().loss, std::log(258.0), 0.3);
  EXPECT_LT(last, 0.45);
}

// Documents of a random string said twice. Nothing but the context tells the second half.
std::string Repeats(uint64_t seed, int64_t documents, int64_t half) {
  const RandomKey key = MakeKey(seed, "repeats");
  std::string text;
  uint64_t draw = 0;
  for (int64_t d = 0; d < documents; ++d) {
    std::string random;
    for (int64_t i = 0; i < half; ++i) {
      random += static_cast<char>('a' + RandomInt(key, draw++, 24));
    }
    text += random + random + "\n\n";
  }
  return text;
}

TEST(Learn, TheSecondHalfOfARepeatedRandomStringCostsNothing) {
  constexpr int64_t kHalf = 15;
  constexpr int64_t kDocument = 2 * kHalf + 2;  // ids: two halves, a line end, the end of document
  TempFolder temp;
  PrepareText(Repeats(1, 8000, kHalf), temp.path() + "/repeats");
  PrepareText(Repeats(2, 64, kHalf), temp.path() + "/repeats_held_out");
  const RunConfig config =
      TinyRun(temp.path(),
              {"data.train=" + temp.path() + "/repeats", "train.precision=f32",
               "train.sequence_length=" + std::to_string(kDocument), "train.batch_sequences=32",
               "train.steps=250", "optim.lr=2e-2", "optim.schedule={shape: cosine, warmup: 50}",
               "model.hidden=32", "model.dense_width=64", "model.moe.experts=4",
               "model.mla={heads: 4, kv_lora_rank: 32, qk_nope: 8, qk_rope: 16, v_head: 8, "
               "rope_theta: 100}"});
  const Outcome outcome = TrainThreads(1, config);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.message;
  ThreadWorld::Run(1, [&](World& world) {
    auto loaded = LoadModel(world, config.run.dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    HeldOutConfig set;
    set.name = "repeats";
    set.data = temp.path() + "/repeats_held_out";
    const auto held_out = HeldOut::Open(set, "reset", kDocument);
    ASSERT_TRUE(held_out.ok()) << held_out.status();
    const auto score =
        Evaluate(world, (*loaded)->context(), (*loaded)->stack(), **held_out, "repeats", 16);
    ASSERT_TRUE(score.ok()) << score.status();
    // A sequence is a document: position p predicts id p + 1.
    const auto& by_position = score->loss_by_position;
    const auto mean = [&](int64_t begin, int64_t end) {
      return std::accumulate(by_position.begin() + begin, by_position.begin() + end, 0.0) /
             static_cast<double>(end - begin);
    };
    EXPECT_GT(mean(0, kHalf - 1), 3.0) << "ln 24 = 3.18: the first half cannot be known";
    EXPECT_LT(mean(kHalf, 2 * kHalf - 1), 0.1);
  });
}

}  // namespace
}  // namespace mneme
