// Equal budgets: on the paper's two grids, on the small sweep's, on 200 random models; and what is
// refused. Every residual is counted again here from the models that came out.
#include "engine/plan/budget.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "configs/load.h"
#include "configs/validate.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/ngram.h"

namespace mneme {
namespace {

using testing::HasSubstr;

RunConfig MustLoad(const std::string& name) {
  const auto config = LoadConfig(std::string(MNEME_CONFIGS_FOLDER) + "/models/" + name, {});
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : RunConfig();
}

BudgetRequest RequestOf(const std::string& name, std::vector<double> rho) {
  const RunConfig config = MustLoad(name);
  BudgetRequest request;
  request.base = config.model;
  request.rho = std::move(rho);
  request.sequence_length = config.train.sequence_length;
  return request;
}

// Largest less smallest of `of` over the cells, as a share of the reference's.
template <class F>
double Spread(const Budget& budget, F&& of) {
  double low = of(budget.cells[0].model), high = low;
  for (const BudgetCell& cell : budget.cells) {
    low = std::min(low, of(cell.model));
    high = std::max(high, of(cell.model));
  }
  return (high - low) / of(budget.reference);
}

double TotalOf(const ModelConfig& model) {
  return static_cast<double>(Count(model).total_without_vocab());
}

// What every strict budget promises.
void ExpectComparable(const BudgetRequest& request, const Budget& budget) {
  ASSERT_EQ(budget.cells.size(), request.rho.size());
  const double length = static_cast<double>(request.sequence_length);
  const auto flops = [&](const ModelConfig& m) {
    return Count(m).flops_per_token(static_cast<int64_t>(length));
  };
  EXPECT_LE(Spread(budget, TotalOf), 0.001);
  EXPECT_LE(Spread(budget, flops), 0.01);
  EXPECT_NEAR(budget.spread.total_share, Spread(budget, TotalOf), 1e-12);
  EXPECT_NEAR(budget.spread.flops_share, Spread(budget, flops), 1e-12);
  const double step =
      1.0 / static_cast<double>(budget.reference.moe.experts - request.base.moe.top_k);
  for (size_t i = 0; i < budget.cells.size(); ++i) {
    const BudgetCell& cell = budget.cells[i];
    EXPECT_EQ(cell.asked_rho, request.rho[i]);
    EXPECT_LE(std::abs(cell.rho - cell.asked_rho), 0.5 * step + 1e-12);
    EXPECT_EQ(cell.model.engram.blocks.empty(), cell.rho == 1.0);
    EXPECT_EQ(cell.residual.total,
              static_cast<int64_t>(TotalOf(cell.model) - TotalOf(budget.reference)));
    RunConfig run;
    run.model = cell.model;
    for (const Fault& fault : FindFaults(run)) {
      EXPECT_FALSE(fault.keys[0].starts_with("model.")) << fault.keys[0] << " " << fault.what;
    }
  }
}

TEST(Budget, ThePapersGridOf2e20) {
  BudgetRequest request =
      RequestOf("sweep_2e20_engram.yaml", {0.4, 0.51, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0});
  for (const char* how : {"dense", "shared"}) {
    request.compensation = *CompensationOf(how);
    const auto budget = SolveBudget(request);
    ASSERT_TRUE(budget.ok()) << budget.status();
    ExpectComparable(request, *budget);
    EXPECT_EQ(budget->reference.moe.experts, 106);
    EXPECT_GT(budget->published_spread.flops_share, 0.009);  // what there is to compensate
    std::vector<int64_t> experts;
    for (const BudgetCell& cell : budget->cells) experts.push_back(cell.model.moe.experts);
    EXPECT_EQ(experts, (std::vector<int64_t>{46, 57, 66, 76, 81, 86, 91, 96, 101, 106}));
    SCOPED_TRACE(BudgetText(*budget));
  }
}

TEST(Budget, ThePapersGridOf6e20) {
  BudgetRequest request = RequestOf("sweep_6e20_engram.yaml", {0.397, 0.505, 0.602, 0.698, 0.752,
                                                               0.795, 0.849, 0.903, 0.946, 1.0});
  const auto budget = SolveBudget(request);
  ASSERT_TRUE(budget.ok()) << budget.status();
  ExpectComparable(request, *budget);
  std::vector<int64_t> experts;
  for (const BudgetCell& cell : budget->cells) experts.push_back(cell.model.moe.experts);
  EXPECT_EQ(experts, (std::vector<int64_t>{43, 53, 62, 71, 76, 80, 85, 90, 94, 99}));
}

TEST(Budget, PublishedGeometryStaysAsPublished) {
  BudgetRequest request = RequestOf("sweep_2e20_engram.yaml", {0.8, 1.0});
  request.strict = false;
  const auto budget = SolveBudget(request);
  ASSERT_TRUE(budget.ok()) << budget.status();
  const ModelConfig published = MustLoad("sweep_2e20_engram.yaml").model;
  const BudgetCell& cell = budget->cells[0];
  EXPECT_EQ(cell.model.dense_width, published.dense_width);
  EXPECT_EQ(cell.model.engram.d_mem, published.engram.d_mem);
  EXPECT_EQ(cell.model.moe.experts, published.moe.experts);
  // 20 experts x 11 blocks x 3 x 1,280 x 1,216 over 2 layers of width 640 (arXiv 2601.07372).
  EXPECT_EQ(cell.model.engram.vocab_size,
            (std::vector<int64_t>{int64_t{20} * 11 * 3 * 1280 * 1216 / (2 * 640)}));
  EXPECT_EQ(cell.residual.total, cell.published.total);
  EXPECT_GT(cell.residual.flops_share, 0.005);
  EXPECT_EQ(budget->cells[1].residual.total, 0);
}

TEST(Budget, TheSmallSweep) {
  BudgetRequest request =
      RequestOf("sweep_small_engram.yaml", {1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2, 0.05});
  const auto budget = SolveBudget(request);
  ASSERT_TRUE(budget.ok()) << budget.status();
  ExpectComparable(request, *budget);
  EXPECT_EQ(budget->reference.moe.experts, 116);
  EXPECT_NEAR(static_cast<double>(budget->counts.active()), 6.6e6, 0.1e6);
  EXPECT_NEAR(static_cast<double>(budget->counts.total_without_vocab()), 60.5e6, 1e6);
  // The preset is the solver's own cell.
  const ModelConfig& preset = request.base;
  const ModelConfig& cell = budget->cells[2].model;
  EXPECT_EQ(cell.moe.experts, preset.moe.experts);
  EXPECT_EQ(cell.dense_width, preset.dense_width);
  EXPECT_EQ(cell.engram.vocab_size, preset.engram.vocab_size);
}

TEST(Budget, AskedTotalsAreMet) {
  BudgetRequest request = RequestOf("sweep_small_engram.yaml", {1.0, 0.75, 0.5});
  request.total = 80e6;
  request.active = 7e6;
  const auto budget = SolveBudget(request);
  ASSERT_TRUE(budget.ok()) << budget.status();
  ExpectComparable(request, *budget);
  const double expert = 5.0 * (3 * 256 * 128 + 256), column = 8.0 * 3 * 256;
  EXPECT_NEAR(static_cast<double>(budget->counts.total_without_vocab()), 80e6, 0.5 * expert);
  EXPECT_NEAR(static_cast<double>(budget->counts.active()), 7e6, 0.5 * column);
}

TEST(Budget, MemoryWidthGivesWayEqually) {
  BudgetRequest request = RequestOf("sweep_2e20_engram.yaml", {0.4, 0.6, 0.8, 1.0});
  request.compensation = Compensation::kMemory;
  request.flops_bound = 0.005;
  request.active = static_cast<double>(Count(MustLoad("sweep_2e20.yaml").model).active());
  const auto budget = SolveBudget(request);
  ASSERT_TRUE(budget.ok()) << budget.status();
  ExpectComparable(request, *budget);
  std::set<int64_t> widths;
  for (const BudgetCell& cell : budget->cells) {
    if (!cell.model.engram.blocks.empty()) widths.insert(cell.model.engram.d_mem);
  }
  EXPECT_EQ(widths.size(), 1u);
  EXPECT_LT(*widths.begin(), 640);
  EXPECT_EQ(*widths.begin() % 128, 0);
}

TEST(Budget, OneSizeAnOrderKeepsItsProportions) {
  BudgetRequest request = RequestOf("sweep_small_engram.yaml", {0.5, 0.8, 1.0});
  request.base.engram.vocab_size = {50'000, 150'000};
  const auto budget = SolveBudget(request);
  ASSERT_TRUE(budget.ok()) << budget.status();
  ExpectComparable(request, *budget);
  const std::vector<int64_t>& sizes = budget->cells[0].model.engram.vocab_size;
  ASSERT_EQ(sizes.size(), 2u);
  EXPECT_NEAR(static_cast<double>(sizes[1]) / static_cast<double>(sizes[0]), 3.0, 1e-3);
}

// A model of the shapes that people sweep, from a seed.
BudgetRequest RandomRequest(uint32_t seed) {
  std::mt19937 random(seed);
  const auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1));
  };
  BudgetRequest request;
  ModelConfig& m = request.base;
  m.vocab_size = 1024 * pick(4, 128);
  m.layers = pick(4, 32);
  m.hidden = 64 * pick(2, 48);
  m.leading_dense = pick(1, 3);
  m.mla = {.heads = std::max<int64_t>(1, m.hidden / 64),
           .kv_lora_rank = m.hidden / 2,
           .qk_nope = 48,
           .qk_rope = 16,
           .v_head = 64};
  m.mhc.streams = pick(0, 1) == 0 ? 1 : 4;
  m.moe.shared = pick(1, 2);
  m.moe.top_k = pick(2, 8);
  m.moe.experts = pick(40, 200);
  m.moe.expert_width = m.hidden / 8 * pick(3, 6);
  m.dense_width = (m.moe.top_k + m.moe.shared) * m.moe.expert_width;
  m.engram.blocks = {1, m.layers / 2};
  if (pick(0, 2) == 0) m.engram.orders = {2, 3, 4};
  m.engram.heads = pick(2, 8);
  // A memory of a quarter to half of the width.
  const int64_t columns = static_cast<int64_t>(m.engram.orders.size()) * m.engram.heads;
  m.engram.d_mem = columns * std::max<int64_t>(1, m.hidden / pick(2, 4) / columns);
  request.sequence_length = 256 * pick(1, 16);
  for (const double rho : {1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2}) request.rho.push_back(rho);
  request.compensation = pick(0, 1) == 0 ? Compensation::kDense : Compensation::kShared;
  // Half of the models ask for the FLOPs of their cells with tables, half keep the base's.
  if (pick(0, 1) == 0) {
    ModelConfig cell = m;
    cell.engram.vocab_size = {2};
    request.active = static_cast<double>(Count(cell).active());
  }
  return request;
}

TEST(Budget, TwoHundredRandomModels) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    const BudgetRequest request = RandomRequest(seed);
    const auto budget = SolveBudget(request);
    ASSERT_TRUE(budget.ok()) << budget.status();
    ExpectComparable(request, *budget);
  }
}

void ExpectRefused(const BudgetRequest& request, const std::vector<std::string>& words) {
  const auto budget = SolveBudget(request);
  ASSERT_FALSE(budget.ok()) << BudgetText(*budget);
  EXPECT_EQ(budget.status().code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& word : words) {
    EXPECT_THAT(std::string(budget.status().message()), HasSubstr(word));
  }
}

TEST(Budget, ImpossibleGridsAreRefusedWithTheNumbers) {
  const BudgetRequest good = RequestOf("sweep_small_engram.yaml", {1.0, 0.8});
  BudgetRequest bad = good;
  bad.rho = {0.8, 0.801};  // 110 inactive experts: steps of 0.0091
  ExpectRefused(bad, {"0.8 and 0.801", "94 of 116", "0.00909"});

  bad = good;
  bad.rho = {1.2};
  ExpectRefused(bad, {"1.2", "[0, 1]"});

  bad = good;
  bad.base.moe.experts = 0;
  ExpectRefused(bad, {"model.moe.experts", "no inactive expert"});

  bad = good;
  bad.base.engram.blocks.clear();
  ExpectRefused(bad, {"model.engram.blocks", "rho 0.8"});

  bad = good;  // a memory far wider than the block that has to pay for it
  bad.base.engram.vocab_size = {0};
  bad.base.engram.d_mem = 1024;
  ExpectRefused(bad,
                {"rho 0.8", "model.dense_width", "from " + std::to_string(bad.base.dense_width)});

  bad = good;
  bad.base.leading_dense = 0;
  bad.base.engram.vocab_size = {0};
  ExpectRefused(bad, {"no block has a model.dense_width"});

  bad = good;
  bad.base.engram.vocab_size = {0};
  bad.compensation = Compensation::kNone;
  bad.base.engram.d_mem = 256;
  ExpectRefused(bad, {"FLOPs a token differ by", "%", "strict: false"});

  bad = good;
  bad.total = 5e6;  // less than what is active
  ExpectRefused(bad, {"5000000", "3 experts", "top_k is 6"});

  bad = good;  // one freed expert cannot pay for the projections of a wide memory
  bad.base.engram.vocab_size = {0};
  bad.base.engram.d_mem = 512;
  bad.base.dense_width = 4096;
  bad.base.moe.expert_width = 8;
  bad.compensation = Compensation::kNone;
  bad.rho = {1.0, 0.99};
  ExpectRefused(bad, {"rho 0.99", "1 experts less", "for tables"});
}

TEST(Budget, MemoryWidthThatCannotPayIsRefused) {
  BudgetRequest request = RequestOf("sweep_small_engram.yaml", {1.0, 0.8});
  request.base.engram.vocab_size = {0};
  request.compensation = Compensation::kMemory;
  request.flops_bound = 1e-5;
  ExpectRefused(request, {"compensation: memory", "128 = orders x heads x 8", "0.001 %"});
}

TEST(Budget, WordsOfCompensation) {
  EXPECT_EQ(*CompensationOf("memory"), Compensation::kMemory);
  EXPECT_THAT(std::string(CompensationOf("densee").status().message()),
              HasSubstr("nearest: dense"));
}

}  // namespace
}  // namespace mneme
