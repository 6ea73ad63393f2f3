#include "engine/sweep/fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "configs/text.h"
#include "kernels/core/check.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

constexpr int kRedraws = 400;
constexpr double kMostNats = 1e12;    // a token; what is beyond it ended as noise
constexpr double kLeastNats = -1e-3;  // rounding may put a perfect loss a little below 0

std::string Percent(double level) { return NumberText(std::round(1000.0 * level) / 10.0) + " %"; }

// How often each document is drawn, for each redraw: the same draws for every cell, so that what is
// hard for all of them cancels.
std::vector<std::vector<double>> DrawDocuments(size_t documents) {
  const RandomKey key = MakeKey(0, "sweep.documents");
  std::vector<std::vector<double>> draws(kRedraws, std::vector<double>(documents));
  uint64_t index = 0;
  for (std::vector<double>& counts : draws) {
    for (size_t i = 0; i < documents; ++i) {
      const int64_t drawn = RandomInt(key, index++, static_cast<int64_t>(documents));
      counts[static_cast<size_t>(drawn)] += 1.0;
    }
  }
  return draws;
}

double LossUnder(const CellResult& cell, const std::vector<double>& counts) {
  double nats = 0.0, tokens = 0.0;
  for (size_t i = 0; i < counts.size(); ++i) {
    nats += counts[i] * cell.documents[i].nats;
    tokens += counts[i] * static_cast<double>(cell.documents[i].tokens);
  }
  return tokens > 0.0 ? nats / tokens : cell.validation_loss;
}

// Documents that every cell scored, alike; 0 where some cell says nothing of them.
absl::StatusOr<int64_t> CommonDocuments(const std::vector<CellResult>& cells) {
  for (const CellResult& cell : cells) {
    if (cell.documents.empty()) return 0;
    const auto same = [](const DocumentScore& a, const DocumentScore& b) {
      return a.tokens == b.tokens;
    };
    const std::vector<DocumentScore>& first = cells.front().documents;
    if (!std::equal(first.begin(), first.end(), cell.documents.begin(), cell.documents.end(),
                    same)) {
      return absl::InvalidArgumentError(
          cell.key + ": its losses by document are of other documents than those of " +
          cells.front().key + "; cells of one fit are scored on one held-out set");
    }
  }
  return static_cast<int64_t>(cells.front().documents.size());
}

std::string ColumnText(const CellResult& cell, const std::string& name) {
  const auto found = cell.columns.find(name);
  return found == cell.columns.end() ? std::string() : found->second;
}

std::vector<std::string> ColumnTexts(const CellResult& cell,
                                     const std::vector<std::string>& names) {
  std::vector<std::string> texts;
  for (const std::string& name : names) texts.push_back(ColumnText(cell, name));
  return texts;
}

// Seeds as numbers from 0; cells that differ in one of `levels` count as of different seeds.
std::vector<int64_t> SeedNumbers(const std::vector<CellResult>& cells,
                                 const std::vector<std::string>& levels) {
  std::map<std::pair<int64_t, std::vector<std::string>>, int64_t> numbers;
  for (const CellResult& cell : cells) numbers[{cell.seed, ColumnTexts(cell, levels)}] = 0;
  int64_t next = 0;
  for (auto& [seed, number] : numbers) number = next++;
  std::vector<int64_t> seeds;
  for (const CellResult& cell : cells)
    seeds.push_back(numbers[{cell.seed, ColumnTexts(cell, levels)}]);
  return seeds;
}

CurveData DataOf(const std::vector<CellResult>& cells, bool documents,
                 const std::vector<std::string>& levels) {
  CurveData data;
  data.seed = SeedNumbers(cells, levels);
  for (const CellResult& cell : cells) {
    data.rho.push_back(cell.rho);
    data.loss.push_back(cell.validation_loss);
  }
  if (!documents) return data;
  for (const std::vector<double>& counts : DrawDocuments(cells.front().documents.size())) {
    std::vector<double>& losses = data.redrawn.emplace_back();
    for (const CellResult& cell : cells) losses.push_back(LossUnder(cell, counts));
  }
  return data;
}

// Mean of loss(base, seed) − loss(rho, seed) over the seeds that both have; `losses` a cell.
struct PairedGain {
  double nats = 0.0;
  int64_t pairs = 0;
};
PairedGain PairsOf(const CurveData& data, const std::vector<double>& losses, double base,
                   double rho) {
  PairedGain gain;
  for (size_t i = 0; i < losses.size(); ++i) {
    if (data.rho[i] != rho) continue;
    for (size_t k = 0; k < losses.size(); ++k) {
      if (data.rho[k] != base || data.seed[k] != data.seed[i]) continue;
      gain.nats += losses[k] - losses[i];
      ++gain.pairs;
    }
  }
  if (gain.pairs > 0) gain.nats /= static_cast<double>(gain.pairs);
  return gain;
}

// Of all points over the one at `baseline`.
std::vector<Gain> GainsOver(double baseline, const CurveData& data, const CurveNoise& noise,
                            const std::vector<CurvePoint>& points, double level) {
  std::vector<Gain> gains;
  for (const CurvePoint& point : points) {
    if (point.rho == baseline) continue;
    const PairedGain paired = PairsOf(data, data.loss, baseline, point.rho);
    if (paired.pairs == 0) continue;
    Gain gain;
    gain.rho = point.rho;
    gain.nats = paired.nats;
    gain.seed_error = noise.seed_sd * std::sqrt(2.0 / static_cast<double>(paired.pairs));
    std::vector<double> redrawn;
    for (const std::vector<double>& losses : data.redrawn)
      redrawn.push_back(PairsOf(data, losses, baseline, point.rho).nats);
    gain.document_error = std::sqrt(Variance(redrawn));
    const double error = std::hypot(gain.seed_error, gain.document_error);
    // One seed says nothing of seeds: an interval of documents alone would promise too much.
    if (noise.seed_freedom > 0.0)
      gain.half = error * StudentQuantile(0.5 * (1.0 + level), noise.seed_freedom);
    gains.push_back(gain);
  }
  return gains;
}

// Sets claim and verdict: an inside interval, and no monotone curve that explains the points.
void Judge(double level, Allocation& allocation) {
  const auto refuse = [&](const std::string& why) {
    allocation.verdict = "no claim of a minimum: " + why;
  };
  if (allocation.forms.empty() || allocation.forms.front().name != "quadratic")
    return refuse("too few cells for a quadratic and its scatter");
  const CurveFit& fit = allocation.forms.front();
  if (!fit.minimum.has_value()) return refuse("the curve is lowest at an end of the range");
  if (!fit.inside) return refuse("its " + Percent(level) + " interval reaches beyond the cells");
  const double p = std::max(allocation.monotone->falling, allocation.monotone->rising);
  if (p > 1.0 - level) {
    const bool falling = allocation.monotone->falling >= allocation.monotone->rising;
    return refuse("a curve that only " + std::string(falling ? "falls" : "rises") +
                  " explains the cells too (p = " + NumberText(p) + ")");
  }
  allocation.claim = true;
  allocation.verdict = "a minimum is claimed: its " + Percent(level) +
                       " interval lies inside the range, and no curve that only falls or only "
                       "rises explains the cells (p = " +
                       NumberText(p) + ")";
  for (const CurveFit& form : allocation.forms) {
    if (!form.minimum.has_value()) {
      allocation.verdict += "; under the " + form.name + " the least is at an end of the range";
    }
  }
}

Allocation FitAllocation(std::vector<CellResult> cells, int64_t documents,
                         const FitConfig& config) {
  Allocation allocation;
  allocation.documents = documents;
  allocation.budget = cells.front().budget;
  allocation.cells = std::move(cells);
  const CurveData data = DataOf(allocation.cells, documents > 0, config.levels);
  allocation.points = PointsOf(data);
  allocation.noise = NoiseOf(data);
  const auto least =
      std::min_element(allocation.points.begin(), allocation.points.end(),
                       [](const CurvePoint& a, const CurvePoint& b) { return a.mean < b.mean; });
  allocation.raw_minimum = least->rho;
  const double low = allocation.points.front().rho, high = allocation.points.back().rho;
  for (const CurveForm& form : CurveForms(config.coordinate, low, high)) {
    if (auto fit = FitCurve(data, form, config.level)) allocation.forms.push_back(std::move(*fit));
  }
  if (!allocation.forms.empty()) {
    // Seeds say what noise is; without two of one, the form that fits best does.
    double variance = allocation.noise.seed_sd * allocation.noise.seed_sd;
    double freedom = allocation.noise.seed_freedom;
    if (variance <= 0.0) {
      const auto best = std::min_element(
          allocation.forms.begin(), allocation.forms.end(),
          [](const CurveFit& a, const CurveFit& b) { return a.scatter < b.scatter; });
      variance = best->scatter * best->scatter;
      freedom = best->freedom;
    }
    std::vector<double> means, weights;
    for (const CurvePoint& point : allocation.points) {
      means.push_back(point.mean);
      weights.push_back(static_cast<double>(point.cells));
    }
    allocation.monotone = TestMonotone(means, weights, variance, freedom);
  }
  Judge(config.level, allocation);
  allocation.baseline = allocation.points.back().rho;
  for (const CurvePoint& point : allocation.points) {
    if (point.rho == config.baseline) allocation.baseline = point.rho;
  }
  allocation.gains =
      GainsOver(allocation.baseline, data, allocation.noise, allocation.points, config.level);
  return allocation;
}

std::optional<Scaling> ScalingOf(const std::vector<CellResult>& cells, const std::string& column,
                                 const FitConfig& config) {
  Scaling scaling;
  scaling.budget = cells.front().budget;
  scaling.column = column;
  const std::vector<int64_t> seeds = SeedNumbers(cells, config.levels);
  std::vector<double> without;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (!std::isfinite(cells[i].table)) continue;
    if (cells[i].table <= 0.0) {
      without.push_back(cells[i].validation_loss);
      continue;
    }
    scaling.data.size.push_back(cells[i].table);
    scaling.data.loss.push_back(cells[i].validation_loss);
    scaling.data.seed.push_back(seeds[i]);
  }
  const auto fit = FitScaling(scaling.data, config.level);
  if (!fit.has_value()) return std::nullopt;
  scaling.fit = *fit;
  if (!without.empty()) scaling.without = Mean(without);
  return scaling;
}

std::set<std::string> ColumnsOf(const CellTable& table) {
  std::set<std::string> known;
  for (const CellResult& cell : table.cells) {
    for (const auto& [name, value] : cell.columns) known.insert(name);
  }
  return known;
}

bool IsOf(const CellResult& cell, const Exclusion& exclusion) {
  const auto found = cell.columns.find(exclusion.key);
  if (found == cell.columns.end()) return false;
  const auto a = ParseNumber(found->second), b = ParseNumber(exclusion.value);
  return a.has_value() && b.has_value() ? *a == *b : found->second == exclusion.value;
}

size_t DistinctRho(const std::vector<CellResult>& cells) {
  std::set<double> rho;
  for (const CellResult& cell : cells) {
    if (std::isfinite(cell.rho)) rho.insert(cell.rho);
  }
  return rho.size();
}

// What is left out is said, and so is an exclusion that leaves out nothing: a cell's rho, say, is
// that of whole experts, and may be another than the one that the sweep's file asks for.
std::vector<CellResult> UsedCells(const CellTable& table, const FitConfig& config, SweepFit& fit) {
  std::vector<CellResult> used;
  std::set<const Exclusion*> needless;
  for (const Exclusion& exclusion : config.exclude) needless.insert(&exclusion);
  for (const CellResult& cell : table.cells) {
    std::string why;
    for (const Exclusion& exclusion : config.exclude) {
      if (!IsOf(cell, exclusion)) continue;
      needless.erase(&exclusion);
      if (!why.empty()) continue;
      why = exclusion.key + " " + exclusion.value +
            (exclusion.why.empty() ? "" : ": " + exclusion.why);
    }
    const double loss = cell.validation_loss;
    if (why.empty() && !(loss >= kLeastNats && loss <= kMostNats)) {
      why = std::isfinite(loss) ? "its loss of " + NumberText(loss) + " is none in nats a token"
                                : "its loss is not finite";
    }
    if (why.empty())
      used.push_back(cell);
    else
      fit.left_out.push_back(cell.key + ": " + why);
  }
  for (const Exclusion& exclusion : config.exclude) {
    if (needless.contains(&exclusion))
      fit.left_out.push_back("no cell: none has " + exclusion.key + " " + exclusion.value);
  }
  return used;
}

using Place = std::pair<double, std::vector<std::string>>;  // a budget, values of columns

std::map<Place, std::vector<CellResult>> GroupsBy(const std::vector<CellResult>& cells,
                                                  const std::vector<std::string>& columns) {
  std::map<Place, std::vector<CellResult>> groups;
  for (const CellResult& cell : cells)
    groups[{cell.budget, ColumnTexts(cell, columns)}].push_back(cell);
  return groups;
}

// Those that are said.
ColumnValues Named(const std::vector<std::string>& columns, const std::vector<std::string>& texts) {
  ColumnValues named;
  for (size_t i = 0; i < columns.size(); ++i) {
    if (!texts[i].empty()) named.emplace_back(columns[i], texts[i]);
  }
  return named;
}

// `cells` differ in `column` and seed alone; nothing where they all have one value of it.
std::optional<ColumnComparison> Compare(std::vector<CellResult> cells, const std::string& column,
                                        int64_t documents, const FitConfig& config) {
  std::vector<std::string> values = {"reference"};
  const bool named = std::any_of(cells.begin(), cells.end(), [&](const CellResult& cell) {
    return ColumnText(cell, column) == values.front();
  });
  if (!named) values.clear();
  // A value's number stands where a curve has rho.
  for (CellResult& cell : cells) {
    const std::string text = ColumnText(cell, column);
    const auto found = std::find(values.begin(), values.end(), text);
    cell.rho = static_cast<double>(found - values.begin());
    if (found == values.end()) values.push_back(text);
  }
  if (values.size() < 2) return std::nullopt;
  const CurveData data = DataOf(cells, documents > 0, {});
  ColumnComparison comparison;
  comparison.documents = documents;
  comparison.budget = cells.front().budget;
  comparison.column = column;
  comparison.noise = NoiseOf(data);
  const std::vector<CurvePoint> points = PointsOf(data);
  for (const CurvePoint& point : points) {
    Contrast contrast;
    contrast.value = values[static_cast<size_t>(point.rho)];
    contrast.cells = point.cells;
    contrast.mean = point.mean;
    comparison.values.push_back(contrast);
  }
  for (const Gain& gain : GainsOver(0.0, data, comparison.noise, points, config.level)) {
    Contrast& contrast = comparison.values[static_cast<size_t>(gain.rho)];
    contrast.difference = -gain.nats;
    contrast.seed_error = gain.seed_error;
    contrast.document_error = gain.document_error;
    contrast.half = gain.half;
  }
  return comparison;
}

absl::Status AddComparisons(const std::vector<CellResult>& cells, const std::string& table_column,
                            SweepFit& fit) {
  std::vector<std::string> compared = fit.config.by;
  compared.insert(compared.end(), fit.config.levels.begin(), fit.config.levels.end());
  for (const std::string& column : compared) {
    std::vector<std::string> others = {"rho"};
    if (!table_column.empty()) others.push_back(table_column);
    for (const std::string& other : compared) {
      if (other != column) others.push_back(other);
    }
    for (const auto& [place, group] : GroupsBy(cells, others)) {
      ASSIGN_OR_RETURN(const int64_t documents, CommonDocuments(group));
      auto comparison = Compare(group, column, documents, fit.config);
      if (!comparison.has_value()) continue;
      comparison->at = Named(others, place.second);
      fit.comparisons.push_back(std::move(*comparison));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<int64_t> DocumentsOfAll(const SweepFit& fit) {
  std::set<int64_t> documents;
  for (const Allocation& allocation : fit.allocations) documents.insert(allocation.documents);
  if (!fit.scalings.empty()) documents.insert(0);
  for (const ColumnComparison& comparison : fit.comparisons) documents.insert(comparison.documents);
  if (documents.size() > 1) return std::nullopt;
  return documents.empty() ? 0 : *documents.begin();
}

absl::Status CheckFit(const FitConfig& config) {
  if (config.level > 0.5 && config.level < 1.0) return absl::OkStatus();
  return absl::InvalidArgumentError("fit.level is " + NumberText(config.level) +
                                    "; an interval's level lies between 0.5 and 1: 0.9");
}

// A slip in a column's name would leave cells in, or put all into one curve, without a word.
absl::Status CheckColumns(const FitConfig& config, const std::set<std::string>& known,
                          const std::string& source) {
  const auto check = [&](const std::string& key, const std::string& column) {
    if (known.count(column) > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "fit." + key + ": " + source + " has no column '" + column +
        "'; nearest: " + Nearest(column, {known.begin(), known.end()}));
  };
  for (const Exclusion& exclusion : config.exclude)
    RETURN_IF_ERROR(check("exclude", exclusion.key));
  for (const std::string& column : config.by) RETURN_IF_ERROR(check("by", column));
  for (const std::string& column : config.levels) RETURN_IF_ERROR(check("levels", column));
  return absl::OkStatus();
}

absl::StatusOr<SweepFit> FitCells(const CellTable& table, const FitConfig& config) {
  RETURN_IF_ERROR(CheckFit(config));
  RETURN_IF_ERROR(CheckColumns(config, ColumnsOf(table), table.source));
  SweepFit fit;
  fit.config = config;
  fit.source = table.source;
  const std::vector<CellResult> used = UsedCells(table, config, fit);
  fit.cells = static_cast<int64_t>(used.size());
  for (const CellResult& cell : used) {
    if (config.coordinate != "log_rho" || cell.rho != 0.0) continue;
    return absl::InvalidArgumentError(table.source + ": cell " + cell.key +
                                      " has rho 0, which has no logarithm: take fit.coordinate "
                                      "rho, or leave the cell out (fit.exclude)");
  }
  for (auto& [place, cells] : GroupsBy(used, config.by)) {
    ASSIGN_OR_RETURN(const int64_t documents, CommonDocuments(cells));
    const size_t distinct = DistinctRho(cells);
    if (distinct < 2 && !table.table_column.empty()) {
      if (auto scaling = ScalingOf(cells, table.table_column, config)) {
        scaling->at = Named(config.by, place.second);
        fit.scalings.push_back(std::move(*scaling));
      }
    }
    if (distinct < 3) continue;
    std::erase_if(cells, [&](const CellResult& cell) {
      if (std::isfinite(cell.rho)) return false;
      fit.left_out.push_back(cell.key + ": has no rho, and is in no curve");
      return true;
    });
    fit.allocations.push_back(FitAllocation(std::move(cells), documents, config));
    fit.allocations.back().at = Named(config.by, place.second);
  }
  RETURN_IF_ERROR(AddComparisons(used, table.table_column, fit));
  if (!fit.allocations.empty() || !fit.scalings.empty() || !fit.comparisons.empty()) return fit;
  std::string left_out;
  if (!fit.left_out.empty()) {
    left_out = "; left out: " + fit.left_out.front();
    if (const size_t more = fit.left_out.size() - 1; more > 0)
      left_out += ", and " + std::to_string(more) + " more";
  }
  return absl::FailedPreconditionError(
      table.source + ": nothing to fit in its " + std::to_string(fit.cells) +
      " cells: a curve needs at least three values of rho in one budget, memory scaling at least "
      "three sizes in table_parameters or table_rows at one rho, a comparison two values of a "
      "column of fit.by" +
      left_out);
}

}  // namespace mneme
