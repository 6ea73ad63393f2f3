// The whole tiny model on one rank: gradients, recomputation, evaluation.
#include "models/stack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/count.h"
#include "tests/models/model_run.h"

namespace mneme::test {
namespace {

constexpr int64_t kRows = 2;
constexpr int64_t kLength = 8;

TEST(Stack, GradientsOfEverything) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    const HostBatch host = RandomBatch(kRows, kLength, 23, true);
    const MicroBatch batch = host.Slice(rank.context, 0, kRows);
    const auto loss = [&] { return run.Step(batch, host); };
    loss();
    ExpectParameterGradients(rank.store, loss, 1e-5, 4);
  });
}

TEST(Stack, GradientsOfTables) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    const HostBatch host = RandomBatch(kRows, kLength, 23, true);
    const MicroBatch batch = host.Slice(rank.context, 0, kRows);
    // Row values as they stand, then moved one at a time through the store's own door.
    RowExchange& exchange = *run.stack->tables()[1];
    const int64_t rows = exchange.store().spec().rows;
    const int64_t width = exchange.store().spec().width;
    Tensor ids = AllIds(rank, rows);
    Tensor values = rank.context.Empty({rows, width});
    exchange.store().Read(rank.stream, ids, values);
    const auto loss = [&] {
      exchange.store().Import(rank.stream, ids, values, {}, {}, false);
      return run.Step(batch, host);
    };
    std::vector<Pieces> gradients(1);
    OnOneRank(DType::kF64, [&](Rank& other) {
      ModelRun fresh(other, TinyModel());
      fresh.Step(host.Slice(other.context, 0, kRows), host);
      fresh.CollectTableGradients(gradients[0]);
    });
    std::vector<double>& analytic = gradients[0]["blocks.2.engram.table"];
    const Tensor grad = Tensor::Wrap(analytic.data(), DType::kF64, {rows, width});
    ExpectGradient("table", values, grad, loss, 1e-5, 60);
  });
}

// Every combination of recomputed parts gives the bits of none, and counts loads once.
TEST(Stack, PartsMadeAgainChangeNoBit) {
  const HostBatch host = RandomBatch(kRows, kLength, 23, true);
  Pieces expected;
  double expected_loss = 0.0;
  std::vector<double> expected_load;
  ModelConfig model = TinyModel();
  model.layers = 9;  // streams are kept before several blocks
  for (int mask = 0; mask < 32; ++mask) {
    OnOneRank(DType::kF64, [&](Rank& rank) {
      const auto on = [&](int part) { return (mask >> part & 1) != 0; };
      ModelRun run(rank, model, {on(0), on(1), on(2), on(3), on(4)});
      const double loss = run.Step(host.Slice(rank.context, 0, kRows), host);
      Pieces pieces = Gradients(rank.store);
      run.CollectTableGradients(pieces);
      std::vector<double> load = Values(run.stack->routers()[0].load);
      if (mask == 0) {
        expected = pieces;
        expected_loss = loss;
        expected_load = load;
      }
      EXPECT_EQ(loss, expected_loss) << mask;
      EXPECT_EQ(load, expected_load) << mask;
      for (const auto& [name, values] : expected) EXPECT_EQ(pieces[name], values) << name << mask;
    });
  }
}

// Scores are the losses of training; nothing moves, with and without memory.
TEST(Stack, ScoreChangesNothing) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    const HostBatch host = RandomBatch(kRows, kLength, 23, true);
    const MicroBatch batch = host.Slice(rank.context, 0, kRows);
    const Scores scores = run.stack->Score(rank.context, batch, false, true);
    ASSERT_EQ(scores.gates.size(), 2u);
    EXPECT_EQ(scores.gates[0].shape(), (Shape{kRows * kLength, 4}));
    const Scores off = run.stack->Score(rank.context, batch, true, true);
    ASSERT_EQ(off.gates.size(), 2u);
    EXPECT_EQ(GetValue(off.gates[1], 3), 0.0);
    for (const auto& [name, values] : Gradients(rank.store)) {
      EXPECT_EQ(values, std::vector<double>(values.size(), 0.0)) << name;
    }
    for (const RouterState& router : run.stack->routers()) {
      EXPECT_EQ(Values(router.load), std::vector<double>(5, 0.0));
    }
    double sum = 0.0;
    double sum_off = 0.0;
    for (const double loss : Values(scores.losses)) sum += loss;
    for (const double loss : Values(off.losses)) sum_off += loss;
    EXPECT_GT(std::abs(sum - sum_off), 1e-3);
    run.Step(batch, host);
    EXPECT_NEAR(GetValue(run.loss_sum, 0), sum, 1e-12 * sum);
    EXPECT_GT(Values(run.stack->routers()[1].load)[0], 0.0);
  });
}

// Rows whose targets are all -1 cost nothing and change no other row.
TEST(Stack, PaddingRowsCountNothing) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    HostBatch host = RandomBatch(3, kLength, 23, true);
    for (int64_t t = 0; t < kLength; ++t) {
      host.targets[static_cast<size_t>(2 * kLength + t)] = -1;
      host.tokens[static_cast<size_t>(2 * kLength + t)] = 0;
    }
    const Scores padded = run.stack->Score(rank.context, host.Slice(rank.context, 0, 3));
    const Scores plain = run.stack->Score(rank.context, host.Slice(rank.context, 0, 2));
    for (int64_t t = 0; t < 3 * kLength; ++t) {
      if (t < 2 * kLength) {
        EXPECT_NEAR(GetValue(padded.losses, t), GetValue(plain.losses, t), 1e-13);
      } else {
        EXPECT_EQ(GetValue(padded.losses, t), 0.0);
      }
    }
  });
}

TEST(Stack, LastLogitsAgreeWithScores) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    const HostBatch host = RandomBatch(kRows, kLength, 23, false);
    const MicroBatch batch = host.Slice(rank.context, 0, kRows);
    const Scores scores = run.stack->Score(rank.context, batch);
    std::vector<Tensor> gates;
    const Tensor logits = run.stack->LastLogits(rank.context, batch, false, &gates);
    EXPECT_EQ(gates.size(), 2u);
    ASSERT_EQ(logits.shape(), (Shape{kRows, 23}));
    for (int64_t r = 0; r < kRows; ++r) {
      double sum = 0.0;
      for (int64_t v = 0; v < 23; ++v) sum += std::exp(GetValue(logits, r * 23 + v));
      const int64_t last = (r + 1) * kLength - 1;
      const int64_t target = host.targets[static_cast<size_t>(last)];
      EXPECT_NEAR(GetValue(scores.losses, last), std::log(sum) - GetValue(logits, r * 23 + target),
                  1e-12);
    }
  });
}

// The past alone decides: a changed token changes no loss before it.
TEST(Stack, IsCausal) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    HostBatch host = RandomBatch(1, kLength, 23, false);
    const Scores before = run.stack->Score(rank.context, host.Slice(rank.context, 0, 1));
    host.tokens[5] = (host.tokens[5] + 1) % 23;
    const Scores after = run.stack->Score(rank.context, host.Slice(rank.context, 0, 1));
    for (int64_t t = 0; t < kLength; ++t) {
      if (t < 5) {
        EXPECT_EQ(GetValue(before.losses, t), GetValue(after.losses, t));
      } else {
        EXPECT_NE(GetValue(before.losses, t), GetValue(after.losses, t));
      }
    }
  });
}

// Under `reset` a document sees nothing of the one before it.
TEST(Stack, DocumentsDoNotMix) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelRun run(rank, TinyModel());
    HostBatch host = RandomBatch(1, kLength, 23, true);
    const Scores before = run.stack->Score(rank.context, host.Slice(rank.context, 0, 1));
    host.tokens[kLength / 2 - 1] = (host.tokens[kLength / 2 - 1] + 1) % 23;
    const Scores after = run.stack->Score(rank.context, host.Slice(rank.context, 0, 1));
    for (int64_t t = kLength / 2; t < kLength; ++t) {
      EXPECT_EQ(GetValue(before.losses, t), GetValue(after.losses, t));
    }
  });
}

// From the second step on the pool serves everything, recomputation or not.
TEST(Stack, SecondStepAsksForNoMemory) {
  for (const bool again : {false, true}) {
    OnOneRank(DType::kF32, [&](Rank& rank) {
      ModelRun run(rank, TinyModel(), {again, again, again});
      const HostBatch host = RandomBatch(kRows, kLength, 23, true);
      const MicroBatch batch = host.Slice(rank.context, 0, kRows);
      run.Step(batch, host);
      run.Step(batch, host);
      const int64_t after_second = rank.pool.driver_allocations();
      const int64_t live = rank.pool.use(MemoryTag::kActivations).live;
      for (int i = 0; i < 3; ++i) run.Step(batch, host);
      EXPECT_EQ(rank.pool.driver_allocations(), after_second);
      EXPECT_EQ(rank.pool.use(MemoryTag::kActivations).live, live);
    });
  }
}

// A diverged run reaches the end of its step, where it is judged.
TEST(Stack, SurvivesNan) {
  OnOneRank(DType::kF32, [&](Rank& rank) {
    ModelRun run(rank, TinyModel());
    const HostBatch host = RandomBatch(kRows, kLength, 23, true);
    for (const auto& parameter : rank.store.parameters()) {
      if (parameter->name == "embedding") SetValue(parameter->value, 3, std::nan(""));
    }
    HostBatch all_zero = host;
    std::fill(all_zero.tokens.begin(), all_zero.tokens.end(), 0);
    EXPECT_TRUE(std::isnan(run.Step(all_zero.Slice(rank.context, 0, kRows), all_zero)));
    double load = 0.0;
    for (const double l : Values(run.stack->routers()[0].load)) load += l;
    EXPECT_EQ(load, static_cast<double>(kRows * kLength * 2));
  });
}

// What the counter says of a config is what the model declares.
TEST(Stack, DeclaresWhatIsCounted) {
  std::vector<ModelConfig> models(8, TinyModel());
  models[1].mla.q_lora_rank = 3;
  models[2].mhc.streams = 1;
  models[2].tie_embeddings = true;
  models[3].mhc.readout = "mean";
  models[3].moe.shared = 0;
  models[5].moe.shared_width = 7;
  models[4].engram.gate.branches = "single";
  models[5].engram.gate.branches = "none";
  models[6].engram.conv.enabled = false;
  models[7].engram.blocks = {};
  models[7].moe.experts = 0;
  for (size_t i = 0; i < models.size(); ++i) {
    OnOneRank(DType::kF32, [&](Rank& rank) {
      const auto stack =
          Stack::Make(rank.context, models[i], PlainVocabulary(23), {}, 1, rank.store);
      ASSERT_TRUE(stack.ok());
      int64_t declared = 0;
      for (const auto& parameter : rank.store.parameters()) {
        declared += parameter->shape.elements();
      }
      for (RowExchange* table : (*stack)->tables()) {
        const RowTableSpec& spec = table->store().spec();
        declared += spec.rows * spec.width;
      }
      EXPECT_EQ(declared, Count(models[i]).total()) << i;
    });
  }
}

TEST(Stack, RefusesWidthsThatDoNotDivide) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    ModelConfig model = TinyModel();
    model.engram.d_mem = 13;
    const auto stack = Stack::Make(rank.context, model, PlainVocabulary(23), {}, 1, rank.store);
    ASSERT_FALSE(stack.ok());
    EXPECT_NE(stack.status().message().find("13"), absl::string_view::npos);
  });
}

// Two runs from one seed have the same first loss; another seed has another.
TEST(Stack, SeedDecidesTheStart) {
  const auto first_loss = [](uint64_t seed) {
    double loss = 0.0;
    OnOneRank(DType::kF32, [&](Rank& rank) {
      ModelConfig model = TinyModel();
      model.init_std = 0.5;
      auto stack = Stack::Make(rank.context, model, PlainVocabulary(23), {}, seed, rank.store);
      rank.store.Allocate(rank.stream, DType::kF32, rank.mesh.layout, 0);
      rank.store.Initialize(rank.stream, rank.context.kernels, seed);
      (*stack)->SetPositions(rank.context, kLength, {});
      const MicroBatch batch = RandomBatch(1, kLength, 23, true).Slice(rank.context, 0, 1);
      for (const double l : Values((*stack)->Score(rank.context, batch).losses)) loss += l;
    });
    return loss;
  };
  EXPECT_EQ(first_loss(1), first_loss(1));
  EXPECT_NE(first_loss(1), first_loss(2));
}

}  // namespace
}  // namespace mneme::test
