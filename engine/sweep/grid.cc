#include "engine/sweep/grid.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "configs/load.h"
#include "configs/stages.h"
#include "configs/text.h"
#include "configs/validate.h"
#include "data/corpus.h"
#include "engine/run_folder.h"
#include "engine/sweep/cell_key.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// A budget beyond it is a slip.
constexpr double kMostSteps = 1e12;

using Values = std::vector<std::pair<std::string, std::string>>;

const std::string* Find(const Values& values, const std::string& name) {
  for (const auto& [key, value] : values) {
    if (key == name) return &value;
  }
  return nullptr;
}

// Every combination, the first axis slowest.
std::vector<Values> Combinations(const std::vector<SweepAxis>& axes) {
  std::vector<Values> all = {{}};
  for (const SweepAxis& axis : axes) {
    std::vector<Values> next;
    for (const Values& before : all) {
      for (const std::string& value : axis.values) {
        next.push_back(before);
        next.back().emplace_back(axis.name, value);
      }
    }
    all = std::move(next);
  }
  return all;
}

absl::StatusOr<double> NumberOf(const std::string& axis, const std::string& text) {
  const auto number = ParseNumber(text);
  if (number.has_value()) return *number;
  return absl::InvalidArgumentError("axes." + axis + ": '" + text + "' is no number");
}

using Ablate = std::function<void(EngramConfig&)>;

// What each ablation of the paper changes.
const std::vector<std::pair<std::string, Ablate>>& Ablations() {
  static const auto* const kAll = new std::vector<std::pair<std::string, Ablate>>{
      {"reference", [](EngramConfig&) {}},
      {"single_fusion", [](EngramConfig& e) { e.gate.branches = "single"; }},
      {"no_compression", [](EngramConfig& e) { e.compression = false; }},
      {"no_gate", [](EngramConfig& e) { e.gate.branches = "none"; }},
      // One order more at the same width an order and the same parameters.
      {"four_grams",
       [](EngramConfig& e) {
         const auto orders = static_cast<int64_t>(e.orders.size());
         e.orders.push_back(e.orders.back() + 1);
         e.d_mem = e.d_mem / orders * (orders + 1);
         for (int64_t& rows : e.vocab_size) rows = rows * orders / (orders + 1);
         if (e.vocab_size.size() > 1) e.vocab_size.push_back(e.vocab_size.back());
       }},
      {"no_convolution", [](EngramConfig& e) { e.conv.enabled = false; }},
  };
  return *kAll;
}

absl::Status ApplyAblation(const std::string& name, EngramConfig& engram) {
  std::vector<std::string> known;
  for (const auto& [word, ablate] : Ablations()) {
    known.push_back(word);
    if (word != name) continue;
    if (!engram.blocks.empty()) {
      ablate(engram);
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        "axes.ablation: the base has no memory to take something from: model.engram.blocks is "
        "empty");
  }
  return absl::InvalidArgumentError("axes.ablation: '" + name +
                                    "' is not known; nearest: " + Nearest(name, known));
}

// Overrides that the axes make of themselves; rho, budget and ablation come later.
std::vector<std::string> OverridesOf(const SweepConfig& sweep, const Values& values) {
  std::vector<std::string> overrides = sweep.overrides;
  for (const auto& [name, value] : values) {
    if (name == "seed") {
      overrides.push_back("train.seed=" + value);
      overrides.push_back("data.seed=" + value);
      overrides.push_back("model.engram.hash_seed=" + value);
    } else if (name == "table") {
      overrides.push_back("model.engram.vocab_size=" + value);
    } else if (name == "placement") {
      overrides.push_back("model.engram.blocks=" + value);
    } else if (name != "rho" && name != "budget" && name != "ablation") {
      overrides.push_back(name + "=" + value);
    }
  }
  return overrides;
}

// The vocabulary of the data where it can be read.
void TakeVocabulary(const RunConfig& config, ModelConfig& model) {
  if (model.vocab_size > 0 || config.data.train.empty()) return;
  if (const auto corpus = Corpus::Open(config.data.train.front()); corpus.ok())
    model.vocab_size = (*corpus)->vocabulary().size;
}

// The set that the fit is about becomes the first.
absl::Status PutPrimaryFirst(const std::string& primary, std::vector<HeldOutConfig>& sets) {
  if (primary.empty()) return absl::OkStatus();
  const auto found = std::find_if(sets.begin(), sets.end(),
                                  [&](const HeldOutConfig& set) { return set.name == primary; });
  if (found != sets.end()) {
    std::rotate(sets.begin(), found, found + 1);
    return absl::OkStatus();
  }
  std::vector<std::string> known;
  for (const HeldOutConfig& set : sets) known.push_back(set.name);
  return absl::InvalidArgumentError(
      "fit.held_out: '" + primary + "' is not among the held-out sets of the cells; " +
      (known.empty()
           ? "evaluate.sets names none"
           : "evaluate.sets names " + Join(known, ", ") + "; nearest: " + Nearest(primary, known)));
}

// Why a cell cannot be run, beside what its key says of the data; empty where it can.
std::string MissingOf(const RunConfig& config) {
  const auto& stages = config.stages;
  if (std::any_of(stages.begin(), stages.end(),
                  [](const StageConfig& stage) { return stage.data.train.empty(); })) {
    return "data.train: the cells name no corpus to train on; set.data.train=FOLDER names one";
  }
  if (!config.evaluate.sets.empty()) return "";
  return "evaluate.sets: the cells have no held-out set, and their held-out losses are what a "
         "sweep compares; \"set.evaluate.sets=[{name: held_out, data: FOLDER}]\" names one";
}

class GridMaker {
 public:
  explicit GridMaker(const SweepConfig& sweep) : sweep_(sweep) {}

  absl::StatusOr<SweepGrid> Make() {
    std::vector<SweepAxis> outer;
    for (const SweepAxis& axis : sweep_.axes) {
      if (axis.name == "rho") rho_ = axis.values;
      if (axis.name == "seed") outer.insert(outer.begin(), axis);
      if (axis.name != "rho" && axis.name != "seed") outer.push_back(axis);
    }
    for (const Values& values : Combinations(outer)) RETURN_IF_ERROR(AddCells(values));
    return CheckDistinct();
  }

 private:
  // The cells of one combination of all axes but rho.
  absl::Status AddCells(const Values& values) {
    ASSIGN_OR_RETURN(RunConfig config, LoadConfig(sweep_.base, OverridesOf(sweep_, values)));
    if (const std::string* name = Find(values, "ablation"))
      RETURN_IF_ERROR(ApplyAblation(*name, config.model.engram));
    ModelConfig counted = config.model;
    TakeVocabulary(config, counted);
    SweepCell cell;
    cell.axes = values;
    if (const std::string* seed = Find(values, "seed")) {
      ASSIGN_OR_RETURN(const double number, NumberOf("seed", *seed));
      cell.seed = static_cast<int64_t>(number);
    } else {
      cell.seed = config.train.seed;
    }
    if (const std::string* table = Find(values, "table")) {
      // One number or one an order: the first names the point.
      const std::string first =
          table->front() == '[' ? table->substr(1, table->find(',') - 1) : *table;
      ASSIGN_OR_RETURN(const double rows, NumberOf("table", first));
      cell.table = rows;
    }
    cell.config = std::move(config);
    if (rho_.empty()) {
      RETURN_IF_ERROR(TakeBudget(values, Count(counted), cell));
      return Add(std::move(cell), counted);
    }
    return AddRho(values, std::move(cell), counted);
  }

  absl::Status AddRho(const Values& values, SweepCell cell, const ModelConfig& base) {
    BudgetRequest request;
    request.base = base;
    // The least that a config may say: a geometry, not a table.
    std::vector<int64_t>& rows = request.base.engram.vocab_size;
    if (*std::max_element(rows.begin(), rows.end()) <= 2) rows = {1};
    for (const std::string& text : rho_) {
      ASSIGN_OR_RETURN(const double rho, NumberOf("rho", text));
      request.rho.push_back(rho);
    }
    request.sequence_length = cell.config.stages.front().sequence_length;
    request.total = sweep_.allocation.total;
    request.active = sweep_.allocation.active;
    ASSIGN_OR_RETURN(request.compensation, CompensationOf(sweep_.allocation.compensation));
    request.width_multiple = sweep_.allocation.width_multiple;
    request.strict = sweep_.allocation.strict;
    request.total_bound = sweep_.allocation.total_bound;
    request.flops_bound = sweep_.allocation.flops_bound;
    ASSIGN_OR_RETURN(const Budget budget, SolveBudget(request));
    RETURN_IF_ERROR(TakeBudget(values, budget.counts, cell));
    for (size_t i = 0; i < budget.cells.size(); ++i) {
      const BudgetCell& solved = budget.cells[i];
      SweepCell one = cell;
      one.axes.emplace_back("rho", rho_[i]);
      one.rho = solved.rho;
      one.residual = solved.residual;
      one.solved = true;
      const int64_t stated = one.config.model.vocab_size;
      one.config.model = solved.model;
      one.config.model.vocab_size = stated;
      RETURN_IF_ERROR(Add(std::move(one), solved.model));
    }
    return absl::OkStatus();
  }

  // Steps from FLOPs: one number of tokens for all cells of a rho axis.
  absl::Status TakeBudget(const Values& values, const Counts& reference, SweepCell& cell) {
    const std::string* text = Find(values, "budget");
    if (text == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(cell.budget, NumberOf("budget", *text));
    const StageConfig& stage = cell.config.stages.front();
    const double tokens = cell.budget / (6.0 * static_cast<double>(reference.active()));
    const double update = static_cast<double>(stage.batch_sequences * stage.sequence_length);
    const double steps = std::round(tokens / update);
    if (cell.config.stages.size() != 1 || !(steps >= 1.0 && steps <= kMostSteps)) {
      return absl::InvalidArgumentError(
          "axes.budget: " + *text + " FLOPs make " + NumberText(tokens) + " tokens, " +
          NumberText(steps) + " steps of a run with " + std::to_string(cell.config.stages.size()) +
          " stages; it needs one stage, at least one step and at most 1e12");
    }
    ASSIGN_OR_RETURN(
        RunConfig config,
        LoadConfig(sweep_.base,
                   With(OverridesOf(sweep_, values),
                        "train.steps=" + std::to_string(static_cast<int64_t>(steps)))));
    config.model = cell.config.model;  // an ablation may have changed it
    cell.config = std::move(config);
    return absl::OkStatus();
  }

  static std::vector<std::string> With(std::vector<std::string> list, const std::string& more) {
    list.push_back(more);
    return list;
  }

  // `counted`: its model with the vocabulary of the data.
  absl::Status Add(SweepCell cell, const ModelConfig& counted) {
    RETURN_IF_ERROR(Validate(cell.config));
    if (!cell.config.stages.front().init_from.empty()) {
      return absl::InvalidArgumentError(
          "stages.0.init_from: is " + cell.config.stages.front().init_from +
          ", and cells of a sweep begin at initial values; take it out of the base");
    }
    RETURN_IF_ERROR(PutPrimaryFirst(sweep_.fit.held_out, cell.config.evaluate.sets));
    cell.counts = Count(counted);
    cell.flops_per_token = cell.counts.flops_per_token(cell.config.stages.front().sequence_length);
    for (const StageConfig& stage : cell.config.stages) {
      cell.tokens += static_cast<double>(StageSteps(stage)) *
                     static_cast<double>(stage.batch_sequences * stage.sequence_length);
    }
    const absl::StatusOr<std::string> key = CellKey(cell.config);
    if (key.ok()) {
      cell.key = *key;
      if (grid_.data_fault.empty()) grid_.data_fault = MissingOf(cell.config);
    } else {
      grid_.data_fault = std::string(key.status().message()) +
                         "; a sweep's cells are named by their data: prepare it first";
    }
    grid_.cells.push_back(std::move(cell));
    return absl::OkStatus();
  }

  absl::StatusOr<SweepGrid> CheckDistinct() {
    std::map<std::string, const SweepCell*> seen;
    for (const SweepCell& cell : grid_.cells) {
      if (cell.key.empty()) continue;
      const auto [at, fresh] = seen.try_emplace(cell.key, &cell);
      if (fresh) continue;
      return absl::InvalidArgumentError("cells " + Describe(*at->second) + " and " +
                                        Describe(cell) + " have the same numbers (key " + cell.key +
                                        "); take one of them out of the axes");
    }
    return std::move(grid_);
  }

  static std::string Describe(const SweepCell& cell) {
    std::vector<std::string> parts;
    for (const auto& [name, value] : cell.axes) parts.push_back(name + " " + value);
    return "(" + Join(parts, ", ") + ")";
  }

  const SweepConfig& sweep_;
  std::vector<std::string> rho_;
  SweepGrid grid_;
};

}  // namespace

absl::StatusOr<SweepGrid> MakeGrid(const SweepConfig& sweep) { return GridMaker(sweep).Make(); }

}  // namespace mneme
