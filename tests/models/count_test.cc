// The parameter audit (arXiv 2601.07372): totals within 0.1 % of what the papers
// imply.
#include "models/count.h"

#include <gtest/gtest.h>

namespace mneme {
namespace {

// Shared by all published models: MLA of 128 + 64, latent 512, one leading dense block, mHC of four
// streams.
ModelConfig Published(int64_t layers, int64_t hidden, int64_t heads, int64_t experts,
                      int64_t expert_width) {
  ModelConfig c;
  c.vocab_size = 129280;
  c.layers = layers;
  c.hidden = hidden;
  c.dense_width = 8 * expert_width;
  c.leading_dense = 1;
  c.mla = {.heads = heads, .kv_lora_rank = 512, .qk_nope = 128, .qk_rope = 64, .v_head = 128};
  c.mhc.streams = 4;
  c.moe.experts = experts;
  c.moe.shared = 2;
  c.moe.top_k = 6;
  c.moe.expert_width = expert_width;
  return c;
}

ModelConfig Paper27B(int64_t experts) { return Published(30, 2560, 32, experts, 1536); }

ModelConfig WithEngram(ModelConfig c, std::vector<int64_t> blocks, int64_t d_mem, int64_t base) {
  c.engram.blocks = std::move(blocks);
  c.engram.d_mem = d_mem;
  c.engram.vocab_size = {base};
  return c;
}

// `billions` is printed to three decimals in the tables.
void ExpectBillions(int64_t value, double billions) {
  EXPECT_NEAR(static_cast<double>(value), billions * 1e9, billions * 1e9 * 1e-3);
}

TEST(Count, Moe27B) {
  const Counts c = Count(Paper27B(72));
  ExpectBillions(c.total_without_vocab(), 26.386);
  ExpectBillions(c.total_paper(), 26.717);
  ExpectBillions(c.total(), 26.717 + 0.331);
  ExpectBillions(c.active(), 3.808);
  ExpectBillions(c.sparse(), 22.58);
  EXPECT_EQ(c.tables, 0);
}

TEST(Count, Engram27B) {
  const Counts c = Count(WithEngram(Paper27B(55), {1, 14}, 1280, 2262400));
  ExpectBillions(c.total_without_vocab(), 26.395);
  ExpectBillions(c.total_paper(), 26.726);
  ExpectBillions(c.active(), 3.840);
  EXPECT_EQ(c.tables, int64_t{72404232} * 80);
  // The tables take what 17 experts a block leave; rho has the baseline's sparse part as
  // denominator (docs/mathematics.md). denominator of rho.
  const double rho =
      1 - static_cast<double>(c.tables) / static_cast<double>(Count(Paper27B(72)).sparse());
  EXPECT_NEAR(rho, 0.7435, 5e-5);
}

TEST(Count, Engram40B) {
  const Counts c = Count(WithEngram(Paper27B(55), {1, 14}, 1280, 7239680));
  ExpectBillions(c.total_without_vocab(), 39.137);
  ExpectBillions(c.total_paper(), 39.468);
  EXPECT_EQ(c.tables, int64_t{231678892} * 80);
}

TEST(Count, Dense4B) {
  const Counts c = Count(Paper27B(0));
  ExpectBillions(c.total_without_vocab(), 3.803);
  ExpectBillions(c.total_paper(), 4.134);
  EXPECT_EQ(c.active(), c.total_without_vocab());
}

// Totals with both vocabulary matrices, active with one (docs/mathematics.md).
TEST(Count, RowsOfTheMhcPaper) {
  struct Row {
    ModelConfig config;
    double total, active;
  };
  const Row rows[] = {{Published(12, 1280, 16, 64, 896), 2.973, 0.612},
                      {Published(18, 1920, 24, 64, 1280), 9.178, 1.661},
                      {Paper27B(72), 27.048, 4.139}};
  for (const Row& row : rows) {
    const Counts c = Count(row.config);
    ExpectBillions(c.total() - c.readout, row.total);
    ExpectBillions(c.active() + c.embedding, row.active);
  }
}

TEST(Count, SweepGeometries) {
  const Counts small = Count(Published(12, 1280, 16, 106, 1216));
  ExpectBillions(small.total_without_vocab(), 5.702);
  ExpectBillions(small.active(), 0.5654);
  const Counts large = Count(Published(15, 1792, 14, 99, 1280));
  ExpectBillions(large.total_without_vocab(), 9.956);
  ExpectBillions(large.active(), 0.9969);
}

TEST(Count, PartsOfThePaperGeometry) {
  const Counts c = Count(WithEngram(Paper27B(55), {1, 14}, 1280, 2262400));
  EXPECT_EQ(c.attention, 30 * (15728640 + 1474560 + 4194304 + 10485760 + 512));
  EXPECT_EQ(c.dense_ffn, 94371840);
  EXPECT_EQ(c.shared_experts, 29 * 2 * 11796480);
  EXPECT_EQ(c.routed_experts, int64_t{29} * 55 * 11796480);
  EXPECT_EQ(c.routed_active, 29 * 6 * 11796480);
  EXPECT_EQ(c.routers, 29 * 55 * 2560);
  EXPECT_EQ(c.hyper, 60 * 245787);
  EXPECT_EQ(c.readout, 40965);
  EXPECT_EQ(c.engram, 2 * (3276800 + 13107200 + 20480 + 10240 + 40960));
  EXPECT_EQ(c.norms, 61 * 2560);
}

TEST(Count, SwitchesTakePartsAway) {
  ModelConfig c = WithEngram(Paper27B(55), {1, 14}, 1280, 2262400);
  c.engram.gate.branches = "none";
  EXPECT_EQ(Count(c).engram, 2 * (3276800 + 10240 + 40960));
  c.engram.gate.branches = "single";
  EXPECT_EQ(Count(c).engram, 2 * (2 * 3276800 + 5120 + 2560 + 10240));
  c.engram.conv.enabled = false;
  EXPECT_EQ(Count(c).engram, 2 * (2 * 3276800 + 5120));
  c.moe.shared_width = 100;
  EXPECT_EQ(Count(c).shared_experts, 29 * 3 * 2560 * 100);
  c.mhc.readout = "mean";
  EXPECT_EQ(Count(c).readout, 0);
  c.mhc.streams = 1;
  EXPECT_EQ(Count(c).hyper, 0);
  c.mla.q_lora_rank = 100;
  EXPECT_EQ(Count(c).attention - 30 * (1474560 + 4194304 + 10485760 + 512),
            30 * (2560 * 100 + 100 + 100 * 6144));
}

TEST(Count, TiedHeadIsCountedOnceButComputed) {
  ModelConfig c = Paper27B(0), tied = c;
  tied.tie_embeddings = true;
  EXPECT_EQ(Count(c).total() - Count(tied).total(), 129280 * 2560);
  EXPECT_EQ(Count(c).total_paper(), Count(tied).total_paper());
  EXPECT_EQ(Count(c).flops_per_token(4096), Count(tied).flops_per_token(4096));
}

TEST(Count, FlopsOfTheTrainingRun) {
  const Counts c = Count(Paper27B(72));
  // Without attention scores: 6 (3.81 + 0.33) 10^9 per token, 6.5e21 over 262 B tokens
  // (arXiv 2601.07372).
  const double scores = 6.0 * 0.5 * 4097 * 30 * 32 * (192 + 128);
  EXPECT_NEAR((c.flops_per_token(4096) - scores) * 262.144e9, 6.5e21, 0.05e21);
  EXPECT_DOUBLE_EQ(c.flops_per_token(2) - c.flops_per_token(1), 3.0 * 30 * 32 * 320);
}

}  // namespace
}  // namespace mneme
