#include "engine/sweep/fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/sweep/report.h"
#include "tests/engine/sweep/planted.h"

namespace mneme {
namespace {

double Valley(double rho) { return 2.8 + 0.15 * (rho - 0.77) * (rho - 0.77); }

CurveData DataOf(const CellTable& table) {
  CurveData data;
  for (const CellResult& cell : table.cells) {
    data.rho.push_back(cell.rho);
    data.loss.push_back(cell.validation_loss);
    data.seed.push_back(cell.seed);
  }
  return data;
}

// Share of `sweeps` whose quadratic's interval holds `truth`.
double Coverage(int sweeps, double truth, const std::function<CurveData(Noise&)>& make) {
  int held = 0;
  for (int i = 0; i < sweeps; ++i) {
    Noise noise(static_cast<uint64_t>(i));
    const CurveData data = make(noise);
    const auto form = CurveForms("rho", data.rho.front(), data.rho.back()).front();
    const auto fit = FitCurve(data, form, 0.9);
    if (!fit.has_value() || !fit->minimum.has_value()) continue;
    held += (!fit->low || *fit->low <= truth) && (!fit->high || *fit->high >= truth);
  }
  return static_cast<double>(held) / sweeps;
}

TEST(Statistics, QuantilesAndTailsAreThoseOfTheTables) {
  EXPECT_NEAR(StudentQuantile(0.95, 1.0), 6.313752, 1e-5);
  EXPECT_NEAR(StudentQuantile(0.95, 7.0), 1.894579, 1e-5);
  EXPECT_NEAR(StudentQuantile(0.975, 30.0), 2.042272, 1e-5);
  EXPECT_NEAR(StudentQuantile(0.95, INFINITY), 1.644854, 1e-5);
  EXPECT_NEAR(FisherTail(3.3258, 5.0, 10.0), 0.05, 1e-5);
  EXPECT_NEAR(FisherTail(4.9646, 1.0, 10.0), 0.05, 1e-5);
}

TEST(Statistics, LeastSquaresSolvesAndRefusesDependentColumns) {
  const auto design = LeastSquares::Of({{1, 0}, {1, 1}, {1, 2}, {1, 3}});
  ASSERT_TRUE(design.has_value());
  EXPECT_EQ(design->freedom(), 2);
  const std::vector<double> beta = design->Solve({1, 3, 5, 7});
  EXPECT_NEAR(beta[0], 1.0, 1e-12);
  EXPECT_NEAR(beta[1], 2.0, 1e-12);
  EXPECT_NEAR(design->ResidualSquares({1, 3, 5, 8}), 0.3, 1e-12);
  EXPECT_NEAR(design->Spread({0, 1}), 1.0 / 5.0, 1e-12);
  EXPECT_FALSE(LeastSquares::Of({{1, 2}, {2, 4}, {3, 6}}).has_value());
}

TEST(Fit, RecoversAPlantedValleyWithinItsInterval) {
  Noise noise(1);
  const SweepFit fit =
      FitCells(PlantedTable(kPaperRho, 2, 0.001, noise, Valley), FitConfig()).value();
  ASSERT_EQ(fit.allocations.size(), 1u);
  const Allocation& allocation = fit.allocations.front();
  EXPECT_TRUE(allocation.claim) << allocation.verdict;
  ASSERT_EQ(allocation.forms.size(), 3u);
  for (const CurveFit& form : allocation.forms) {
    ASSERT_TRUE(form.low.has_value() && form.high.has_value()) << form.name;
    EXPECT_NEAR(*form.minimum, 0.77, 0.03) << form.name;
  }
  EXPECT_LT(*allocation.forms[0].low, 0.77);
  EXPECT_GT(*allocation.forms[0].high, 0.77);
  EXPECT_NEAR(allocation.noise.seed_sd, 0.001, 0.0006);
  // Gains: 0.15 * 0.23^2 at the least.
  for (const Gain& gain : allocation.gains) {
    ASSERT_TRUE(gain.half.has_value());
    EXPECT_NEAR(gain.nats, Valley(1.0) - Valley(gain.rho), 2.0 * *gain.half);
  }
}

TEST(Fit, NinetyOfAHundredIntervalsHoldThePlantedMinimum) {
  struct Case {
    std::vector<double> rhos;
    int64_t seeds;
    double deviation;
  };
  for (const Case& c : {Case{kPaperRho, 2, 0.002}, Case{kPaperRho, 1, 0.002},
                        Case{{0.2, 0.4, 0.6, 0.8, 1.0}, 3, 0.003}}) {
    const double coverage = Coverage(400, 0.77, [&](Noise& noise) {
      return DataOf(PlantedTable(c.rhos, c.seeds, c.deviation, noise, Valley));
    });
    EXPECT_GE(coverage, 0.85) << c.seeds;
    EXPECT_LE(coverage, 0.95) << c.seeds;
  }
}

// The documents' own minima scatter: which of them were held out matters more than seeds do.
TEST(Fit, NinetyOfAHundredIntervalsHoldWhereDocumentsMakeTheNoise) {
  const double coverage = Coverage(400, 0.77, [](Noise& noise) {
    constexpr int kDocuments = 60;
    std::vector<double> best(kDocuments), level(kDocuments);
    for (int d = 0; d < kDocuments; ++d) {
      best[static_cast<size_t>(d)] = 0.77 + noise(0.15);
      level[static_cast<size_t>(d)] = 2.8 + noise(0.3);
    }
    CurveData data;
    std::vector<std::vector<double>> documents;  // of each cell
    for (const double rho : kPaperRho) {
      for (int64_t seed = 0; seed < 2; ++seed) {
        const double off = noise(0.0003);
        std::vector<double>& losses = documents.emplace_back();
        for (size_t d = 0; d < kDocuments; ++d)
          losses.push_back(level[d] + 0.15 * (rho - best[d]) * (rho - best[d]) + off);
        data.rho.push_back(rho);
        data.seed.push_back(seed);
        data.loss.push_back(Mean(losses));
      }
    }
    const RandomKey key = MakeKey(7, "redraw");
    for (uint64_t b = 0; b < 200; ++b) {
      std::vector<double>& losses = data.redrawn.emplace_back();
      std::vector<size_t> drawn;
      for (uint64_t d = 0; d < kDocuments; ++d)
        drawn.push_back(static_cast<size_t>(RandomInt(key, b * kDocuments + d, kDocuments)));
      for (const std::vector<double>& own : documents) {
        double sum = 0.0;
        for (const size_t d : drawn) sum += own[d];
        losses.push_back(sum / kDocuments);
      }
    }
    return data;
  });
  EXPECT_GE(coverage, 0.85);
  EXPECT_LE(coverage, 0.95);
}

TEST(Fit, ClaimsNothingOfAMonotoneCurve) {
  const std::vector<double> wide = {0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0};
  const auto line = [](double rho) { return 2.9 - 0.1 * rho; };
  const auto rising = [](double rho) { return 2.8 + 0.05 * rho * rho; };
  // A quadratic through this has a minimum inside, and a small interval around it.
  const auto saturating = [](double rho) { return 2.8 + 0.3 * std::exp(-6.0 * rho); };
  int claims = 0, quadratics = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    Noise noise(100 + i);
    for (const std::function<double(double)>& truth :
         {std::function<double(double)>(line), {rising}, {saturating}}) {
      const SweepFit fit =
          FitCells(PlantedTable(wide, 3, 0.002, noise, truth), FitConfig()).value();
      const Allocation& allocation = fit.allocations.front();
      claims += allocation.claim;
      quadratics += allocation.forms.front().inside;
      if (!allocation.claim) {
        EXPECT_THAT(allocation.verdict, testing::StartsWith("no claim of a minimum"));
      }
    }
  }
  EXPECT_LE(claims, 3);
  EXPECT_GE(quadratics, 10) << "the saturating curve should tempt a quadratic";
}

TEST(Fit, FindsThePapersMinima) {
  CellTable table;
  const std::vector<double> rhos = {0.397, 0.505, 0.602, 0.698, 0.752,
                                    0.795, 0.849, 0.903, 0.946, 1.0};
  const std::vector<double> losses = {1.7247, 1.7196, 1.7136, 1.7122, 1.7126,
                                      1.7109, 1.7095, 1.7125, 1.7130, 1.7248};
  for (size_t i = 0; i < rhos.size(); ++i)
    table.cells.push_back(PlantedCell(rhos[i], 0, losses[i]));
  const Allocation allocation = FitCells(table, FitConfig()).value().allocations.front();
  EXPECT_NEAR(*allocation.forms[0].minimum, 0.738, 0.001);
  EXPECT_NEAR(allocation.forms[0].loss, 1.7107, 0.0001);
  EXPECT_EQ(allocation.raw_minimum, 0.849);
  EXPECT_TRUE(allocation.claim);
  EXPECT_FALSE(allocation.gains.front().half.has_value()) << "one seed says nothing of seeds";
}

TEST(Fit, RecoversAPlantedSlopeOfMemoryScaling) {
  int held = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    Noise noise(500 + i);
    CellTable table;
    table.table_column = "table_rows";
    for (const double size : {2.6e5, 6.5e5, 1.3e6, 2.6e6, 5.2e6, 1e7}) {
      for (int64_t seed = 0; seed < 2; ++seed) {
        CellResult cell = PlantedCell(0.5, seed, 1.94 - 0.0284 * std::log10(size) + noise(0.002));
        cell.table = size;
        table.cells.push_back(cell);
      }
    }
    const Scaling scaling = FitCells(table, FitConfig()).value().scalings.front();
    held += *scaling.fit.slope.low <= -0.0284 && -0.0284 <= *scaling.fit.slope.high;
    EXPECT_NEAR(scaling.fit.slope.value, -0.0284, 0.006);
  }
  EXPECT_GE(held, 170);
  EXPECT_LE(held, 190);
}

TEST(Fit, TellsAPowerLawWithAFloorFromALine) {
  Noise noise(3);
  CellTable table;
  table.table_column = "table_rows";
  for (double size = 1e5; size < 2e8; size *= 3.0) {
    CellResult cell = PlantedCell(0.5, 0, 1.7 + 40.0 * std::pow(size, -0.5) + noise(0.0002));
    cell.table = size;
    table.cells.push_back(cell);
  }
  const ScalingFit fit = FitCells(table, FitConfig()).value().scalings.front().fit;
  ASSERT_TRUE(fit.has_floor);
  EXPECT_LT(*fit.floor_exponent.low, 0.5);
  EXPECT_GT(*fit.floor_exponent.high, 0.5);
  EXPECT_NEAR(fit.floor, 1.7, 0.001);
  EXPECT_LT(fit.floor_scatter, 0.1 * fit.log_scatter);
}

TEST(Fit, LeavesOutWhatItWasToldToAndSaysSo) {
  Noise noise(4);
  CellTable table = PlantedTable(kPaperRho, 2, 0.001, noise, Valley);
  table.cells[3].validation_loss = std::nan("");
  FitConfig config;
  config.exclude = {{"rho", "1", "no table at all"}};
  const SweepFit fit = FitCells(table, config).value();
  EXPECT_EQ(fit.cells, 17);
  ASSERT_EQ(fit.left_out.size(), 3u);
  EXPECT_THAT(fit.left_out[0], testing::HasSubstr("not finite"));
  EXPECT_THAT(fit.left_out[1], testing::HasSubstr("no table at all"));
  EXPECT_EQ(fit.allocations.front().points.back().rho, 0.95);
  // One that no cell has is told of: it may be meant for cells that are in the fit.
  config.exclude = {{"rho", "0.41", ""}, {"seed", "0", "old"}, {"rho", "0.4", ""}};
  const SweepFit other = FitCells(table, config).value();
  EXPECT_EQ(other.left_out.back(), "no cell: none has rho 0.41");
  EXPECT_EQ(other.left_out.size(), 13u);  // ten of seed 0, one more at 0.4, one without a loss
  EXPECT_EQ(other.cells, 8);
}

// Cells of two rates at five places, the second rate worse by `more` and with its valley moved.
CellTable TwoRates(double more, double moved, Noise& noise) {
  CellTable both;
  both.source = "planted";
  for (const char* rate : {"0.001", "0.002"}) {
    const bool second = rate == std::string("0.002");
    CellTable one = PlantedTable({0.4, 0.6, 0.8, 0.9, 1.0}, 2, 0.0005, noise, [&](double rho) {
      return Valley(rho - (second ? moved : 0.0)) + (second ? more : 0.0);
    });
    for (CellResult& cell : one.cells) {
      cell.columns["optim.lr"] = rate;
      both.cells.push_back(cell);
    }
  }
  return both;
}

TEST(Fit, GivesCellsThatDifferInAColumnCurvesOfTheirOwn) {
  Noise noise(6);
  FitConfig config;
  config.by = {"optim.lr"};
  const SweepFit fit = FitCells(TwoRates(0.05, 0.1, noise), config).value();
  ASSERT_EQ(fit.allocations.size(), 2u);
  EXPECT_EQ(fit.allocations[1].at, (ColumnValues{{"optim.lr", "0.002"}}));
  EXPECT_NEAR(*fit.allocations[1].forms[0].minimum - *fit.allocations[0].forms[0].minimum, 0.1,
              0.03);
  ASSERT_EQ(fit.comparisons.size(), 5u) << "one for each rho";
  for (const ColumnComparison& comparison : fit.comparisons) {
    ASSERT_EQ(comparison.values.size(), 2u);
    EXPECT_EQ(comparison.values[0].value, "0.001");
    EXPECT_EQ(comparison.at.front().first, "rho");
  }
  EXPECT_THAT(FitText(fit), testing::HasSubstr("optim.lr 0.002"));
  config.by = {"optim.rate"};
  EXPECT_THAT(std::string(FitCells(TwoRates(0.05, 0.1, noise), config).status().message()),
              testing::HasSubstr("fit.by: planted has no column 'optim.rate'; nearest: optim.lr"));
}

TEST(Fit, LevelsShareOneCurve) {
  Noise noise(7);
  FitConfig config;
  const CellTable table = TwoRates(0.05, 0.0, noise);
  config.levels = {"optim.lr"};
  const SweepFit shared = FitCells(table, config).value();
  ASSERT_EQ(shared.allocations.size(), 1u);
  EXPECT_LT(shared.allocations[0].forms[0].scatter, 0.001) << "the rate's own level is taken out";
  EXPECT_EQ(shared.comparisons.size(), 5u);
  const SweepFit mixed = FitCells(table, FitConfig()).value();
  EXPECT_GT(mixed.allocations[0].forms[0].scatter, 0.01) << "else this proves nothing";
}

TEST(Fit, NinetyOfAHundredIntervalsHoldAPlantedDifference) {
  int held = 0, told = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    Noise noise(900 + i);
    CellTable table;
    table.source = "planted";
    for (int64_t seed = 0; seed < 2; ++seed) {
      const double level = noise(0.01);
      for (const char* part : {"no_gate", "no_convolution", "reference", "single_fusion"}) {
        const double worse = part == std::string("no_gate") ? 0.0046 : 0.0;
        CellResult cell = PlantedCell(0.7, seed, 1.77 + worse + level + noise(0.002));
        cell.columns["ablation"] = part;
        table.cells.push_back(cell);
      }
    }
    FitConfig config;
    config.by = {"ablation"};
    const SweepFit fit = FitCells(table, config).value();
    ASSERT_EQ(fit.comparisons.size(), 1u);
    const std::vector<Contrast>& values = fit.comparisons[0].values;
    ASSERT_EQ(values.size(), 4u);
    EXPECT_EQ(values[0].value, "reference") << "wherever it stands";
    EXPECT_EQ(values[1].value, "no_gate");
    held += std::fabs(values[1].difference - 0.0046) <= *values[1].half;
    told += values[1].difference > 0.0;
  }
  EXPECT_GE(held, 168);
  EXPECT_LE(held, 192);
  EXPECT_GE(told, 180);
}

// Three documents whose losses are the cell's, spread around it.
void GiveDocuments(CellResult& cell) {
  for (const double off : {-0.1, 0.03, 0.07})
    cell.documents.push_back({10, 10.0 * (cell.validation_loss + off)});
}

// Losses by document of the cells of one rho reach the comparison there, and no curve.
TEST(Fit, SaysOfEachWhatItsIntervalsRestOn) {
  Noise noise(8);
  CellTable table = TwoRates(0.05, 0.1, noise);
  FitConfig config;
  config.by = {"optim.lr"};
  const SweepFit without = FitCells(table, config).value();
  EXPECT_EQ(DocumentsOfAll(without), 0);
  EXPECT_THAT(FitText(without), testing::HasSubstr("90 %, from seeds alone;"));

  for (CellResult& cell : table.cells) {
    if (cell.rho == 1.0) GiveDocuments(cell);
  }
  const SweepFit some = FitCells(table, config).value();
  EXPECT_EQ(DocumentsOfAll(some), std::nullopt);
  for (const Allocation& allocation : some.allocations) EXPECT_EQ(allocation.documents, 0);
  ASSERT_EQ(some.comparisons.size(), 5u);
  for (const ColumnComparison& comparison : some.comparisons) {
    const bool last = comparison.at.front() == ColumnValues::value_type("rho", "1.000000");
    EXPECT_EQ(comparison.documents, last ? 3 : 0);
  }
  const std::string text = FitText(some);
  EXPECT_THAT(text, testing::HasSubstr("90 %, from what each says;"));
  EXPECT_THAT(text, testing::HasSubstr("\nintervals from seeds alone\n"));
  EXPECT_THAT(text, testing::HasSubstr("\nintervals from seeds and 3 documents\n"));
  const auto json = nlohmann::json::parse(FitJson(some));
  EXPECT_TRUE(json["documents"].is_null());
  EXPECT_EQ(json["allocations"][0]["documents"], 0);
  EXPECT_EQ(json["comparisons"][4]["documents"], 3);
  const std::string html = ReportHtml(some, {});
  EXPECT_THAT(html, testing::HasSubstr("Intervals at 90 %, from what is said with each."));
  EXPECT_THAT(html, testing::HasSubstr("<p>Intervals from the noise of seeds alone.</p>"));
  EXPECT_THAT(html, testing::HasSubstr("the noise of seeds and 3 held-out documents drawn again"));

  for (CellResult& cell : table.cells) {
    if (cell.rho != 1.0) GiveDocuments(cell);
  }
  const SweepFit all = FitCells(table, config).value();
  EXPECT_EQ(DocumentsOfAll(all), 3);
  EXPECT_THAT(FitText(all), testing::HasSubstr("90 %, from seeds and 3 documents;"));
  EXPECT_THAT(FitText(all), testing::Not(testing::HasSubstr("\nintervals from")));
  EXPECT_EQ(nlohmann::json::parse(FitJson(all))["documents"], 3);
}

TEST(Fit, MemoryScalingRestsOnSeedsAlone) {
  Noise noise(9);
  CellTable table;
  table.table_column = "table_rows";
  for (const double size : {1e5, 1e6, 1e7, 1e8}) {
    CellResult cell = PlantedCell(0.5, 0, 1.94 - 0.03 * std::log10(size) + noise(0.002));
    cell.table = size;
    GiveDocuments(cell);
    table.cells.push_back(cell);
  }
  const SweepFit fit = FitCells(table, FitConfig()).value();
  ASSERT_EQ(fit.scalings.size(), 1u);
  EXPECT_THAT(FitText(fit), testing::HasSubstr("from seeds alone;"));
}

TEST(Fit, SaysWhatItNeeds) {
  CellTable table;
  table.source = "two.csv";
  table.cells = {PlantedCell(0.5, 0, 2.0), PlantedCell(1.0, 0, 2.1)};
  EXPECT_THAT(std::string(FitCells(table, FitConfig()).status().message()),
              testing::HasSubstr("two.csv: nothing to fit in its 2 cells"));
  FitConfig config;
  config.level = 90.0;
  EXPECT_THAT(std::string(FitCells(table, config).status().message()),
              testing::HasSubstr("fit.level is 90"));
  // Three points on a curve of three coefficients: no scatter, hence no claim.
  table.cells.push_back(PlantedCell(0.75, 0, 1.9));
  const Allocation allocation = FitCells(table, FitConfig()).value().allocations.front();
  EXPECT_FALSE(allocation.claim);
  EXPECT_THAT(allocation.verdict, testing::HasSubstr("too few cells"));
}

TEST(Fit, TellsTheSameInTextAndInStrictJson) {
  Noise noise(5);
  const SweepFit fit =
      FitCells(PlantedTable(kPaperRho, 2, 0.001, noise, Valley), FitConfig()).value();
  const auto json = nlohmann::json::parse(FitJson(fit));
  EXPECT_EQ(json["claim"], true);
  EXPECT_EQ(json["minimum"], *fit.allocations[0].forms[0].minimum);
  EXPECT_EQ(json["interval"][0], *fit.allocations[0].forms[0].low);
  EXPECT_EQ(json["allocations"][0]["forms"].size(), 3u);
  EXPECT_EQ(json["allocations"][0]["points"].size(), kPaperRho.size());
  EXPECT_THAT(FitText(fit), testing::HasSubstr("a minimum is claimed"));
}

// Losses of no model are left out by name, and so is a cell without a place on the curve.
TEST(Fit, LeavesOutWhatIsNoLossAndWhatHasNoRho) {
  Noise noise(1);
  CellTable table = PlantedTable(kPaperRho, 3, 0.002, noise, Valley);
  const auto minimum = [](const SweepFit& fit) {
    return fit.allocations.front().forms.front().minimum;
  };
  const auto whole = minimum(FitCells(table, {}).value());
  const size_t sound = table.cells.size();
  for (const double loss : {1.7e308, -1.7e308, 1e300, -0.5, std::nan("")}) {
    table.cells.push_back(PlantedCell(0.5, 0, loss));
  }
  table.cells.push_back(PlantedCell(std::nan(""), 0, 2.8));
  const SweepFit fit = FitCells(table, {}).value();
  ASSERT_EQ(fit.left_out.size(), 6u);
  EXPECT_THAT(fit.left_out[0], testing::HasSubstr("its loss of 1.7e+308 is none in nats a token"));
  EXPECT_THAT(fit.left_out[4], testing::HasSubstr("its loss is not finite"));
  EXPECT_THAT(fit.left_out[5], testing::HasSubstr("has no rho, and is in no curve"));
  EXPECT_EQ(fit.allocations.front().cells.size(), sound);
  EXPECT_EQ(minimum(fit), whole);
  for (CellResult& cell : table.cells) cell.validation_loss = 1.7e308;
  EXPECT_THAT(std::string(FitCells(table, {}).status().message()),
              testing::HasSubstr("its loss of 1.7e+308 is none in nats a token, and 35 more"));
}

TEST(Fit, SaysThatRhoZeroHasNoLogarithm) {
  Noise noise(1);
  FitConfig config;
  config.coordinate = "log_rho";
  const CellTable table = PlantedTable({0.0, 0.4, 0.7, 1.0}, 3, 0.002, noise, Valley);
  EXPECT_THAT(std::string(FitCells(table, config).status().message()),
              testing::HasSubstr("has rho 0, which has no logarithm"));
}

// Means of equal losses differ in their last digit: the axes' ticks must end all the same.
TEST(Fit, DrawsCellsOfOneLoss) {
  for (const double loss : {0.1, 0.5, 3.0, 1e9}) {
    CellTable table;
    for (int i = 0; i < 12; ++i) {
      table.cells.push_back(
          PlantedCell(std::vector<double>{0.2, 0.5, 0.8, 1.0}[i % 4], i / 4, loss));
    }
    const std::string html = ReportHtml(FitCells(table, {}).value(), {});
    EXPECT_THAT(html, testing::HasSubstr("</html>"));
    EXPECT_THAT(html, testing::Not(testing::HasSubstr("nan")));
  }
}

TEST(Fit, TellsOfMemoryScalingInTextJsonAndReport) {
  Noise noise(3);
  CellTable table;
  table.table_column = "table_rows";
  for (double size = 1e5; size < 2e8; size *= 3.0) {
    CellResult cell = PlantedCell(0.5, 0, 1.7 + 40.0 * std::pow(size, -0.5) + noise(0.0002));
    cell.table = size;
    table.cells.push_back(cell);
  }
  table.cells.push_back(PlantedCell(0.5, 0, 1.9));
  table.cells.back().table = 0.0;
  const SweepFit fit = FitCells(table, FitConfig()).value();
  ASSERT_EQ(fit.scalings.size(), 1u);
  const ScalingFit& s = fit.scalings[0].fit;
  ASSERT_TRUE(s.has_floor);
  const auto json = nlohmann::json::parse(FitJson(fit))["memory_scaling"];
  ASSERT_EQ(json.size(), 1u);
  EXPECT_EQ(json[0]["column"], "table_rows");
  EXPECT_EQ(json[0]["cells"], fit.scalings[0].data.size.size());
  EXPECT_EQ(json[0]["log_linear"]["slope"], s.slope.value);
  EXPECT_EQ(json[0]["log_linear"]["interval"][0], *s.slope.low);
  EXPECT_EQ(json[0]["power_law"]["exponent"], s.exponent.value);
  EXPECT_EQ(json[0]["power_law"]["interval"][1], *s.exponent.high);
  EXPECT_EQ(json[0]["power_law_with_floor"]["floor"], s.floor);
  EXPECT_EQ(json[0]["power_law_with_floor"]["exponent"], s.floor_exponent.value);
  EXPECT_EQ(json[0]["without_tables"], 1.9);
  const std::string text = FitText(fit);
  EXPECT_THAT(text, testing::HasSubstr("memory scaling over table_rows, "));
  EXPECT_THAT(text, testing::HasSubstr("with floor  exponent "));
  const std::string html = ReportHtml(fit, ReportNotes());
  EXPECT_THAT(html, testing::HasSubstr(ScalingFigure(fit.scalings[0]).Svg()));
  EXPECT_THAT(html, testing::HasSubstr("power law above 1.70"));
  // A line in the logarithm has no floor to tell.
  CellTable line = table;
  line.cells.pop_back();
  for (CellResult& cell : line.cells) cell.validation_loss = 2.0 - 0.03 * std::log10(cell.table);
  const SweepFit straight = FitCells(line, FitConfig()).value();
  const auto plain = nlohmann::json::parse(FitJson(straight))["memory_scaling"][0];
  EXPECT_NEAR(plain["log_linear"]["slope"], -0.03, 1e-12);
  EXPECT_TRUE(plain["without_tables"].is_null());
}

}  // namespace
}  // namespace mneme
