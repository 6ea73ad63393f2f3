// What a table of cells says: the allocation curve of each budget, what was gained, how loss falls
// with table size, and what each value of any other column does.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sweep/cells.h"
#include "engine/sweep/curve.h"
#include "engine/sweep/scaling.h"
#include "engine/sweep/statistics.h"

namespace mneme {

// Cells left out: those whose column `key` has `value`.
struct Exclusion {
  std::string key;
  std::string value;
  std::string why;

  template <class V>
  void Visit(V& v) {
    v("key", key, "a column of the results");
    v("value", value, "cells that have this value there are left out");
    v("why", why, "stands in the report");
  }
};

// How cells are read: decided before the first of them is run.
struct FitConfig {
  std::string coordinate = "rho";
  double level = 0.9;
  std::string held_out;
  double baseline = 1.0;
  std::vector<std::string> by;
  std::vector<std::string> levels;
  std::vector<Exclusion> exclude;

  template <class V>
  void Visit(V& v) {
    v("coordinate", coordinate, "of the quadratic and the cubic", {"rho", "log_rho"});
    v("level", level, "of every interval");
    v("held_out", held_out,
      "name of the held-out set that the fit is about; empty: the run's first");
    v("baseline", baseline, "gains are over the cells of this rho; the largest where none has it");
    v("by", by,
      "columns: cells that differ there have curves of their own, and their values are compared; "
      "[] takes a sweep's axes other than rho, seed, budget and table");
    v("levels", levels,
      "columns that, like the seed, have a level of their own in one common curve; their values "
      "are compared too");
    v("exclude", exclude, "cells that are left out, with the reason");
  }
};

// How much better the cells of one rho are than the baseline's: seeds paired, documents paired.
struct Gain {
  double rho = 0.0;
  double nats = 0.0;
  double seed_error = 0.0;      // standard error that seeds make; 0: one seed
  double document_error = 0.0;  // that the choice of held-out documents makes; 0: not known
  std::optional<double> half;   // half-width of the interval; nothing without any error known
};

// Columns with the values that some cells have in common: {{"optim.lr", "0.003"}}.
using ColumnValues = std::vector<std::pair<std::string, std::string>>;

// The cells of one budget with equal values of FitConfig::by, at three values of rho or more: the
// curves through them, and whether they have a minimum.
struct Allocation {
  double budget = 0.0;  // training FLOPs; 0: the file names none
  ColumnValues at;      // of FitConfig::by
  std::vector<CellResult> cells;
  int64_t documents = 0;  // held out, that intervals rest on beside seeds; 0: on seeds alone
  std::vector<CurvePoint> points;  // means by rho
  CurveNoise noise;
  std::vector<CurveFit> forms;           // the first is the one that the claim is about
  std::optional<MonotoneTest> monotone;  // nothing where no form could be fitted
  double raw_minimum = 0.0;              // rho of the least mean
  bool claim = false;                    // a minimum inside the range is claimed
  std::string verdict;                   // why there is a claim, or none
  std::vector<Gain> gains;  // of every other rho that has a seed in common with the baseline
  double baseline = 0.0;    // the rho that they are over
};

// Cells of one budget and one rho, by the size of their tables. Intervals rest on seeds alone.
struct Scaling {
  double budget = 0.0;
  ColumnValues at;     // as in Allocation
  std::string column;  // that the sizes come from
  ScalingData data;
  ScalingFit fit;
  std::optional<double> without;  // mean loss of the cells without tables
};

// One value of a column, against the reference.
struct Contrast {
  std::string value;
  int64_t cells = 0;
  double mean = 0.0;        // loss, seeds' levels taken out
  double difference = 0.0;  // to the reference, over the seeds that both have; above 0 is worse
  double seed_error = 0.0, document_error = 0.0;  // as in Gain
  std::optional<double> half;
};

// Cells that differ in one column alone, and in their seed.
struct ColumnComparison {
  double budget = 0.0;
  std::string column;
  ColumnValues at;        // what else varies in the table, as these cells have it
  int64_t documents = 0;  // as in Allocation
  CurveNoise noise;
  std::vector<Contrast> values;  // the reference first: "reference", or the first cell's value
};

struct SweepFit {
  FitConfig config;
  std::string source;
  int64_t cells = 0;                  // that were used
  std::vector<std::string> left_out;  // "key: why"
  std::vector<Allocation> allocations;
  std::vector<Scaling> scalings;
  std::vector<ColumnComparison> comparisons;
};

// What is wrong with a fit whatever its cells are (InvalidArgument): a level outside (0.5, 1).
absl::Status CheckFit(const FitConfig& config);
// OK where every column that the config names is `known`. InvalidArgument with the nearest one;
// `source` is what has the columns.
absl::Status CheckColumns(const FitConfig& config, const std::set<std::string>& known,
                          const std::string& source);

// Deterministic: the same table gives the same digits. Errors: FailedPrecondition for neither three
// values of rho nor three table sizes nor two values of a column to compare; InvalidArgument:
// CheckFit; a column that no cell has; losses by document that are not of the same documents.
absl::StatusOr<SweepFit> FitCells(const CellTable& table, const FitConfig& config);

// The held-out documents that every interval rests on beside seeds, 0 for none; nothing where some
// rest on others than the rest do.
std::optional<int64_t> DocumentsOfAll(const SweepFit& fit);

// "optim.lr 0.003, rho 0.8"; empty where nothing is said.
std::string ColumnValuesText(const ColumnValues& values);

// For a terminal, with a plot; and as one JSON object.
std::string FitText(const SweepFit& fit);
std::string FitJson(const SweepFit& fit);

}  // namespace mneme
