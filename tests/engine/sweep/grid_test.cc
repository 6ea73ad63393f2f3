#include "engine/sweep/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "configs/device_rates.h"
#include "configs/load.h"
#include "data/files.h"
#include "engine/forecast/forecast.h"
#include "engine/sweep/cell_key.h"
#include "engine/sweep/cell_plan.h"
#include "engine/sweep/sweep_folder.h"
#include "kernels/core/dry.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using testing::HasSubstr;

TEST(SweepPresets, MakeTheirGrids) {
  const std::vector<std::pair<std::string, size_t>> presets = {{"demo", 10},
                                                               {"small_h200", 21},
                                                               {"medium_h200", 10},
                                                               {"one_pass_h200", 4},
                                                               {"short_h200", 4},
                                                               {"learning_rate_h200", 12},
                                                               {"memory_scaling_h200", 12},
                                                               {"memory_once_h200", 12},
                                                               {"high_rate_h200", 12},
                                                               {"table_rate_h200", 6},
                                                               {"ablations_h200", 24},
                                                               {"placement_h200", 24},
                                                               {"paper_2e20", 10},
                                                               {"paper_6e20", 10}};
  for (const auto& [name, cells] : presets) {
    const auto sweep = LoadSweep(MNEME_SOURCE_DIR "/configs/sweeps/" + name + ".yaml", {});
    ASSERT_TRUE(sweep.ok()) << sweep.status();
    const auto grid = MakeGrid(*sweep);
    ASSERT_TRUE(grid.ok()) << name << ": " << grid.status();
    EXPECT_TRUE(CheckFitColumns(*sweep, *grid).ok()) << name;
    EXPECT_EQ(grid->cells.size(), cells);
    for (const SweepCell& cell : grid->cells) {
      EXPECT_LE(std::abs(cell.residual.total_share), 0.001) << name;
      EXPECT_LE(std::abs(cell.residual.flops_share), 0.01) << name;
    }
    if (name == "paper_2e20") {
      EXPECT_EQ(grid->cells.front().config.model.moe.experts, 106);
      EXPECT_EQ(grid->cells.back().config.model.moe.experts, 46);
      EXPECT_NEAR(grid->cells.front().tokens, 58.7e9, 0.3e9);
    }
  }
}

// A base of 34 experts and the geometry of a memory, and its corpora.
class Grid : public testing::Test {
 protected:
  Grid() {
    PrepareText(MakeText(1, 6000), temp_.path() + "/train");
    PrepareText(MakeText(2, 2000), temp_.path() + "/held_out");
    Put("base.yaml", R"(
model:
  layers: 2
  hidden: 32
  dense_width: 64
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 34, shared: 1, top_k: 2, expert_width: 16}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 2}
data: {train: train}
train: {steps: 60, sequence_length: 64, batch_sequences: 8}
evaluate: {sets: [{name: a, data: held_out}]}
)");
  }
  void Put(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(temp_.path() + "/" + name, text).ok());
  }
  absl::StatusOr<SweepGrid> Make(const std::string& axes,
                                 const std::vector<std::string>& overrides = {}) {
    Put("sweep.yaml",
        "base: base.yaml\nallocation: {width_multiple: 1, total_bound: 0.005}\n" + axes);
    auto sweep = LoadSweep(temp_.path() + "/sweep.yaml", overrides);
    if (!sweep.ok()) return sweep.status();
    sweep_ = *sweep;
    return MakeGrid(sweep_);
  }
  std::string ErrorOf(const std::string& axes) {
    const auto grid = Make(axes);
    return grid.ok() ? "no error" : std::string(grid.status().message());
  }
  std::string KeyOf(const std::vector<std::string>& overrides) {
    return CellKey(LoadConfig(temp_.path() + "/base.yaml", overrides).value()).value();
  }

  TempFolder temp_;
  SweepConfig sweep_;
  std::string text_;
};

TEST_F(Grid, MakesEqualCellsOfRhoAndSeedWithSeedsOutermost) {
  const SweepGrid grid = Make("axes: {rho: [1.0, 0.5], seed: [3, 4]}").value();
  ASSERT_EQ(grid.cells.size(), 4u);
  EXPECT_EQ(grid.data_fault, "");
  const SweepCell& whole = grid.cells[0];
  const SweepCell& half = grid.cells[1];
  EXPECT_EQ(whole.seed, 3);
  EXPECT_EQ(half.seed, 3);
  EXPECT_EQ(grid.cells[2].seed, 4);
  EXPECT_EQ(*whole.rho, 1.0);
  EXPECT_EQ(*half.rho, 0.5);
  EXPECT_EQ(whole.config.model.moe.experts, 34);
  EXPECT_EQ(half.config.model.moe.experts, 18);
  EXPECT_TRUE(whole.config.model.engram.blocks.empty());
  EXPECT_GT(half.counts.tables, 0);
  EXPECT_NEAR(static_cast<double>(half.counts.total_paper()),
              static_cast<double>(whole.counts.total_paper()), 350.0);
  EXPECT_NEAR(half.flops_per_token / whole.flops_per_token, 1.0, 0.01);
  // Cells of one seed see the same data in the same order, start alike and hash alike.
  EXPECT_EQ(half.config.data.seed, 3);
  EXPECT_EQ(half.config.train.seed, 3);
  EXPECT_EQ(half.config.model.engram.hash_seed, 3);
  EXPECT_EQ(half.config.model.vocab_size, 0) << "the vocabulary still comes from the data";
  const auto json = nlohmann::json::parse(GridJson(sweep_, grid, PlanCells(sweep_, grid).value()));
  EXPECT_EQ(json["cells"][1]["parameters"]["total"], half.counts.total_without_vocab());
  EXPECT_EQ(json["cells"][1]["parameters"]["active"], half.counts.active());
  EXPECT_EQ(json["cells"][1]["rho"], 0.5);
  EXPECT_EQ(json["cells"][1]["flops_per_token"], half.flops_per_token);
  EXPECT_EQ(json["cells"][1]["key"], half.key);
}

TEST_F(Grid, TakesBudgetsTablesPlacementsAndAnyKey) {
  const SweepGrid grid =
      Make(
          "set: {train.log_every: 5}\naxes: {rho: [1.0, 0.5], budget: [1e10, 2e10], optim.lr: "
          "[1e-3]}")
          .value();
  ASSERT_EQ(grid.cells.size(), 4u);
  // 6 · active · tokens.
  const SweepCell& cell = grid.cells[0];
  EXPECT_NEAR(6.0 * static_cast<double>(cell.counts.active()) * cell.tokens, 1e10, 3e7);
  EXPECT_EQ(grid.cells[1].tokens, cell.tokens);
  EXPECT_NEAR(grid.cells[2].tokens / cell.tokens, 2.0, 0.01);
  EXPECT_EQ(cell.config.optim.lr, 1e-3);
  EXPECT_EQ(cell.config.train.log_every, 5);

  const SweepGrid tables = Make("axes: {table: [50, 100], placement: [[0], [1]]}").value();
  ASSERT_EQ(tables.cells.size(), 4u);
  EXPECT_EQ(tables.cells[3].config.model.engram.vocab_size, std::vector<int64_t>{100});
  EXPECT_EQ(tables.cells[3].config.model.engram.blocks, std::vector<int64_t>{1});
  EXPECT_EQ(*tables.cells[3].table, 100.0);
  EXPECT_FALSE(tables.cells[3].rho.has_value());
}

TEST_F(Grid, TakesPathsFromWhereTheFileStands) {
  const std::string key = KeyOf({});
  std::filesystem::create_directory(temp_.path() + "/else where");
  std::filesystem::rename(temp_.path() + "/held_out", temp_.path() + "/else where/held_out");
  const std::string moved = "[{name: a, data: else where/held_out}]";
  for (const std::string& text : std::vector<std::string>{
           "set: {evaluate: {sets: " + moved + "}}\naxes: {data.train: [train]}",
           "set: {evaluate.sets.0.data: else where/held_out}\naxes: {seed: [0]}",
           "set: {data.train: [train]}\naxes: {evaluate.sets: [" + moved + "]}"}) {
    const auto grid = Make(text);
    ASSERT_TRUE(grid.ok()) << text << grid.status();
    EXPECT_EQ(grid->data_fault, "") << text;
    EXPECT_EQ(grid->cells[0].key, key) << text;
  }
  EXPECT_THAT(ErrorOf("set: {data.train: '${NO_SUCH_NAME}/x'}\naxes: {seed: [0]}"),
              HasSubstr("NO_SUCH_NAME"));
  EXPECT_THAT(ErrorOf("set: {train.steps: }\naxes: {seed: [0]}"), HasSubstr("has no value"));
}

TEST_F(Grid, AblatesAsThePaperDoes) {
  const SweepGrid grid =
      Make(
          "set: {model.engram.vocab_size: 3000}\naxes: {ablation: [reference, single_fusion, "
          "no_compression, no_gate, four_grams, no_convolution]}")
          .value();
  ASSERT_EQ(grid.cells.size(), 6u);
  const auto engram = [&](size_t i) { return grid.cells[i].config.model.engram; };
  EXPECT_EQ(engram(0).gate.branches, "per_branch");
  EXPECT_EQ(engram(1).gate.branches, "single");
  EXPECT_FALSE(engram(2).compression);
  EXPECT_EQ(engram(3).gate.branches, "none");
  EXPECT_EQ(engram(4).orders, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(engram(4).d_mem, 24);
  EXPECT_EQ(engram(4).vocab_size, std::vector<int64_t>{2000});
  EXPECT_NEAR(static_cast<double>(grid.cells[4].counts.tables),
              static_cast<double>(grid.cells[0].counts.tables), 1000.0);
  EXPECT_FALSE(engram(5).conv.enabled);
}

TEST_F(Grid, SaysWhatIsWrong) {
  EXPECT_THAT(ErrorOf("axes: {rho: [1.0, much]}"), HasSubstr("axes.rho: 'much' is no number"));
  EXPECT_THAT(ErrorOf("axes: {rho: [1.0, 1.0]}"), HasSubstr("1.0 stands twice"));
  EXPECT_THAT(ErrorOf("axes: {rho: 1.0}"), HasSubstr("axes.rho: expects a list"));
  EXPECT_THAT(ErrorOf("axes: {}"), HasSubstr("has no axis"));
  EXPECT_THAT(ErrorOf("axes: {optim.rl: [1]}"), HasSubstr("nearest"));
  EXPECT_THAT(ErrorOf("axes: {ablation: [no_gates]}"), HasSubstr("nearest: no_gate"));
  EXPECT_THAT(ErrorOf("axes: {budget: [10]}"), HasSubstr("at least one step"));
  EXPECT_THAT(ErrorOf("axes: {train.log_every: [1, 2]}"), HasSubstr("have the same numbers"));
  EXPECT_THAT(ErrorOf("folders: x\naxes: {seed: [1]}"), HasSubstr("nearest: folder"));
  EXPECT_EQ(ErrorOf("axes: {seed: [0]"),
            temp_.path() + "/sweep.yaml:3: not YAML: end of map flow not found");
  EXPECT_THAT(ErrorOf("fit: {level: 90}\naxes: {seed: [1]}"), HasSubstr("fit.level is 90"));
  EXPECT_THAT(ErrorOf("run: {launch: mneme train}\naxes: {seed: [1]}"),
              HasSubstr("run.launch: must name {config}"));
  EXPECT_THAT(
      ErrorOf("run: {launch: 'p train {config} x={sed} ${HOME} { foo }'}\naxes: {seed: [1]}"),
      HasSubstr("run.launch: {sed} is nothing that is filled in; nearest: {seed}"));
  EXPECT_EQ(
      ErrorOf("run: {launch: 'p train {config} x={seed} ${HOME} { foo; }'}\naxes: {seed: [1]}"),
      "no error");
  EXPECT_THAT(ErrorOf("run: {idle_seconds: -1}\naxes: {seed: [1]}"),
              HasSubstr("run.idle_seconds: must be at least 0"));
  EXPECT_THAT(ErrorOf("run: {attempts: 0}\naxes: {seed: [1]}"), HasSubstr("run.attempts"));
}

TEST_F(Grid, HoursAreThoseOfThePlan) {
  const SweepGrid grid = Make("axes: {seed: [0, 1], train.steps: [60, 120]}").value();
  EXPECT_EQ(sweep_.run.device, kUsualDevice);
  const auto hours = [&](const std::string& device, int64_t ranks, size_t cell) {
    sweep_.run.device = device;
    sweep_.run.ranks = ranks;
    return PlanCells(sweep_, grid).value()[cell].hours.value();
  };
  const auto planned = [&](const std::string& device, int ranks) {
    ForecastOptions options;
    options.device = LoadDeviceRates(device).value();
    options.ranks = ranks;
    return MakeForecast(grid.cells[0].config, options).value().seconds / 3600.0;
  };
  EXPECT_GT(hours("cpu", 1, 0), 0.0);
  EXPECT_EQ(hours("cpu", 1, 0), planned("cpu", 1));
  EXPECT_EQ(hours("h200", 1, 0), planned("h200", 1));
  EXPECT_NE(hours("h200", 1, 0), hours("cpu", 1, 0));
  EXPECT_EQ(hours("cpu", 4, 0), planned("cpu", 4));
  EXPECT_DOUBLE_EQ(hours("cpu", 4, 1), 2.0 * hours("cpu", 4, 0)) << "twice the steps";
  EXPECT_EQ(hours("cpu", 4, 2), hours("cpu", 4, 0)) << "another seed";
  const auto json = nlohmann::json::parse(GridJson(sweep_, grid, PlanCells(sweep_, grid).value()));
  EXPECT_EQ(json["cells"][1]["hours"], hours("cpu", 4, 1));
  EXPECT_EQ(json["ranks"], 4);
  EXPECT_TRUE(json["cells"][1]["no_hours"].is_null());
}

TEST_F(Grid, SaysWhyThereAreNoHours) {
  const auto cell = [&](const std::string& axes) {
    const SweepGrid grid = Make(axes).value();
    const std::vector<CellPlan> plans = PlanCells(sweep_, grid).value();
    text_ = GridText(sweep_, grid, plans);
    return nlohmann::json::parse(GridJson(sweep_, grid, plans))["cells"][0];
  };
  const auto three = cell("axes: {seed: [0, 1]}\nrun: {ranks: 3}");
  EXPECT_TRUE(three["hours"].is_null());
  EXPECT_THAT(three["no_hours"].get<std::string>(),
              HasSubstr("cannot be dealt equally to 3 ranks"));
  EXPECT_THAT(text_, HasSubstr("no hours for 2 cells: "));
  const auto absent = cell("set: {data.train: absent}\naxes: {seed: [0]}");
  EXPECT_THAT(absent["no_hours"].get<std::string>(), HasSubstr("model.vocab_size"));
  std::string mine = "name: mine\nkind: cpu\nmemory: 1e5\nrates:\n";
  for (int work = 0; work < kWorks; ++work)
    mine += std::string("  ") + Name(static_cast<Work>(work)) + ": {bytes: 1e6}\n";
  Put("mine.yaml", mine);
  const auto large = cell("axes: {seed: [0]}\nrun: {device: mine.yaml}");
  EXPECT_GT(large["hours"], 0.0);
  EXPECT_THAT(large["breaks"].get<std::string>(), HasSubstr("memory: a rank needs"));
  EXPECT_THAT(text_, HasSubstr("breaks a limit: memory"));
  EXPECT_THAT(ErrorOf("axes: {seed: [0]}\nrun: {device: h300}"),
              HasSubstr("run.device: 'h300' is neither a file nor one of cpu, h100, h200"));
  EXPECT_THAT(ErrorOf("axes: {seed: [0]}\nrun: {ranks: 0}"), HasSubstr("run.ranks"));
}

TEST_F(Grid, PutsTheHeldOutSetOfTheFitFirst) {
  const std::string sets =
      "set: {evaluate.sets: [{name: a, data: held_out}, {name: b, data: held_out, sequences: "
      "2}]}\n";
  const auto first = [&](const SweepGrid& grid) { return grid.cells[0].config.evaluate.sets[0]; };
  const SweepGrid usual = Make(sets + "axes: {seed: [0]}").value();
  EXPECT_EQ(first(usual).name, "a");
  const SweepGrid other = Make(sets + "axes: {seed: [0]}\nfit: {held_out: b}").value();
  EXPECT_EQ(first(other).name, "b");
  EXPECT_EQ(first(other).sequences, 2);
  EXPECT_EQ(other.cells[0].config.evaluate.sets[1].name, "a");
  // Another loss, another cell; a further set changes nothing.
  EXPECT_NE(other.cells[0].key, usual.cells[0].key);
  EXPECT_EQ(usual.cells[0].key, KeyOf({}));
  EXPECT_EQ(Make("axes: {seed: [0]}\nfit: {held_out: a}").value().cells[0].key, KeyOf({}));

  EXPECT_THAT(ErrorOf(sets + "axes: {seed: [0]}\nfit: {held_out: bb}"),
              HasSubstr("fit.held_out: 'bb' is not among the held-out sets of the cells; "
                        "evaluate.sets names a, b; nearest: b"));
  EXPECT_THAT(ErrorOf("set: {evaluate.sets: []}\naxes: {seed: [0]}\nfit: {held_out: a}"),
              HasSubstr("evaluate.sets names none"));
  const SweepGrid none = Make("set: {evaluate.sets: []}\naxes: {seed: [0]}").value();
  EXPECT_THAT(none.data_fault, HasSubstr("the cells have no held-out set"));
}

TEST_F(Grid, WithoutItsDataItHasNoKeysButCounts) {
  const SweepGrid grid = Make("set: {data.train: absent}\naxes: {seed: [0]}").value();
  EXPECT_EQ(grid.cells[0].key, "");
  EXPECT_THAT(grid.data_fault, HasSubstr("absent"));
  EXPECT_GT(grid.cells[0].counts.active(), 0);
}

TEST_F(Grid, KeysCoverNumbersAndNothingElse) {
  const std::string key = KeyOf({});
  // What an earlier build gave: a sweep that was begun with it goes on.
  EXPECT_EQ(key, "5ae44352d69f8f21");
  for (const char* free :
       {"run.dir=elsewhere", "train.checkpoint_every=7", "train.log_every=3", "train.keep_last=9",
        "parallel.expert=2", "train.micro_batch=2", "train.tensorboard=true", "evaluate.every=5",
        "evaluate.sets.0.name=b", "device=cpu", "run.resume=never",
        "model.init_std=0.006"}) {  // the last: a key at its default, stated
    EXPECT_EQ(KeyOf({free}), key) << free;
  }
  for (const char* bound :
       {"train.seed=1", "train.steps=61", "optim.lr=1e-3", "model.moe.experts=33", "data.seed=1",
        "train.precision=f64", "evaluate.sets.0.sequences=3", "data.doc_boundary=ignore"}) {
    EXPECT_NE(KeyOf({bound}), key) << bound;
  }
  // A moved folder, and other data at the same place.
  TempFolder other;
  std::filesystem::copy(temp_.path(), other.path(), std::filesystem::copy_options::recursive);
  EXPECT_EQ(CellKey(LoadConfig(other.path() + "/base.yaml", {}).value()).value(), key);
  std::filesystem::remove_all(other.path() + "/train");
  PrepareText(MakeText(9, 6000), other.path() + "/train");
  EXPECT_NE(CellKey(LoadConfig(other.path() + "/base.yaml", {}).value()).value(), key);
}

}  // namespace
}  // namespace mneme
