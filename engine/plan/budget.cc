#include "engine/plan/budget.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <utility>

#include "configs/text.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

std::string N(int64_t value) { return std::to_string(value); }

std::string Share(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %%", 100.0 * share);
  return text;
}

absl::Status Refuse(const std::string& what) { return absl::InvalidArgumentError(what); }

int64_t MoeBlocks(const ModelConfig& model) {
  int64_t blocks = 0;
  for (int64_t block = 0; block < model.layers; ++block) blocks += model.is_moe_block(block);
  return blocks;
}

int64_t DenseBlocks(const ModelConfig& model) { return model.layers - MoeBlocks(model); }

int64_t Columns(const EngramConfig& engram) {
  return static_cast<int64_t>(engram.orders.size()) * engram.heads;
}

bool HasGeometry(const EngramConfig& engram) {
  return !engram.blocks.empty() && !engram.orders.empty() && engram.heads > 0 &&
         engram.d_mem >= Columns(engram);
}

// Parameters of one routed expert in every MoE block.
int64_t ExpertParameters(const ModelConfig& model) {
  return MoeBlocks(model) * 3 * model.hidden * model.moe.expert_width;
}

ModelConfig WithoutEngram(ModelConfig model) {
  model.engram.blocks.clear();
  return model;
}

// Table sizes in the proportions of the base, `size` rows for the largest.
EngramConfig WithRows(EngramConfig engram, int64_t size) {
  int64_t largest = *std::max_element(engram.vocab_size.begin(), engram.vocab_size.end());
  if (largest < 1) {
    engram.vocab_size = {1};
    largest = 1;
  }
  for (int64_t& rows : engram.vocab_size) {
    const double share = static_cast<double>(rows) / static_cast<double>(largest);
    rows = std::max<int64_t>(2, std::llround(share * static_cast<double>(size)));
  }
  return engram;
}

int64_t TableParameters(const ModelConfig& model, int64_t size) {
  ModelConfig probe = model;
  probe.engram = WithRows(model.engram, size);
  return Count(probe).tables;
}

// The size whose tables, of true primes, come nearest to `parameters`.
EngramConfig NearestTables(const ModelConfig& model, int64_t parameters) {
  const EngramConfig& engram = model.engram;
  // A sub-table has at least its size in rows, and one of them has the largest size.
  const auto layers = static_cast<int64_t>(engram.blocks.size());
  const auto orders = static_cast<int64_t>(engram.vocab_size.size());
  const int64_t width = layers * engram.d_mem;
  int64_t high = std::max<int64_t>(2, orders * parameters / width);
  // Primes lie above the size by little: the answer is near.
  const int64_t over = std::max<int64_t>(0, TableParameters(model, high) - parameters);
  int64_t low = std::max<int64_t>(2, high - 2 * over / width - 64);
  if (TableParameters(model, low) > parameters) low = 2;
  while (low < high) {  // the largest size that does not exceed
    const int64_t middle = low + (high - low + 1) / 2;
    if (TableParameters(model, middle) <= parameters) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int64_t below = std::abs(TableParameters(model, low) - parameters);
  const int64_t above = std::abs(TableParameters(model, low + 1) - parameters);
  return WithRows(engram, above < below ? low + 1 : low);
}

// The nearest whole number of experts that fills the router's groups and holds the chosen ones.
int64_t WholeExperts(const MoeConfig& moe, double experts) {
  const int64_t groups = std::max<int64_t>(1, moe.groups);
  const int64_t nearest = groups * std::llround(experts / static_cast<double>(groups));
  const int64_t least = (moe.top_k + groups - 1) / groups * groups;
  return std::max(nearest, least);
}

class Solver {
 public:
  explicit Solver(const BudgetRequest& request) : request_(request) {}
  absl::StatusOr<Budget> Solve();

 private:
  absl::Status CheckRequest() const;
  absl::Status MakeReference();
  absl::Status FitReference();
  absl::Status ChooseExperts();
  absl::Status ChooseMemoryWidth();
  absl::Status FillTables(const std::string& who, ModelConfig* model) const;
  absl::StatusOr<BudgetCell> SolveCell(double rho, int64_t experts) const;
  absl::Status CheckSpread() const;

  double Flops(const ModelConfig& model) const {
    return Count(model).flops_per_token(request_.sequence_length);
  }
  BudgetResidual ResidualOf(const ModelConfig& model) const;
  ModelConfig Cell(int64_t experts) const;
  ModelConfig Published(int64_t experts) const;
  // Moves the width that `what` names until the model has `flops` a token.
  absl::Status FitWidth(Compensation what, double flops, const std::string& who,
                        ModelConfig* model) const;

  const BudgetRequest& request_;
  EngramConfig geometry_;
  double active_ = 0.0;           // wanted; 0: what the base has
  std::vector<int64_t> experts_;  // of each rho
  Budget budget_;
};

absl::Status Solver::CheckRequest() const {
  const ModelConfig& base = request_.base;
  if (base.moe.experts <= base.moe.top_k || MoeBlocks(base) == 0) {
    return Refuse("model.moe.experts: " + N(base.moe.experts) + " experts in " +
                  N(MoeBlocks(base)) + " blocks with top_k " + N(base.moe.top_k) +
                  " leave no inactive expert to turn into rows");
  }
  if (request_.sequence_length < 1 || request_.width_multiple < 1)
    return Refuse("the sequence length and the multiple of widths are at least 1");
  if (request_.rho.empty()) return Refuse("rho: no value is given");
  for (const double rho : request_.rho) {
    if (!(rho >= 0.0 && rho <= 1.0))
      return Refuse("rho: " + NumberText(rho) + " is no share; must be in [0, 1]");
    if (rho < 1.0 && !HasGeometry(base.engram)) {
      return Refuse("rho " + NumberText(rho) +
                    " asks for tables, but the model has no geometry for them: give "
                    "model.engram.blocks, orders, heads and d_mem");
    }
  }
  return absl::OkStatus();
}

absl::Status Solver::MakeReference() {
  const ModelConfig& base = request_.base;
  geometry_ = base.engram;
  ModelConfig& reference = budget_.reference;
  reference = WithoutEngram(base);
  const std::vector<int64_t>& sizes = base.engram.vocab_size;
  active_ = request_.active;
  if (HasGeometry(base.engram) && *std::min_element(sizes.begin(), sizes.end()) > 1) {
    if (active_ == 0.0 && request_.strict) active_ = static_cast<double>(Count(base).active());
    const double freed =
        static_cast<double>(Count(base).tables) / static_cast<double>(ExpertParameters(base));
    reference.moe.experts = WholeExperts(base.moe, static_cast<double>(base.moe.experts) + freed);
  }
  return FitReference();
}

// Total and active depend on each other by the routers' few rows only: two rounds settle it.
absl::Status Solver::FitReference() {
  ModelConfig& reference = budget_.reference;
  for (int round = 0; round < 3; ++round) {
    if (active_ > 0.0) {
      const double missing = active_ - static_cast<double>(Count(reference).active());
      RETURN_IF_ERROR(
          FitWidth(DenseBlocks(reference) > 0 ? Compensation::kDense : Compensation::kShared,
                   Flops(reference) + 6.0 * missing, "rho 1", &reference));
    }
    if (request_.total > 0.0) {
      const double missing =
          request_.total - static_cast<double>(Count(reference).total_without_vocab());
      const double each = static_cast<double>(ExpertParameters(reference) +
                                              MoeBlocks(reference) * reference.hidden);
      const double experts = static_cast<double>(reference.moe.experts) + missing / each;
      if (experts < static_cast<double>(reference.moe.top_k) + 0.5) {
        return Refuse("a total of " + N(std::llround(request_.total)) + " leaves " +
                      N(std::llround(experts)) + " experts of " + N(ExpertParameters(reference)) +
                      " parameters, and top_k is " + N(reference.moe.top_k) +
                      ": raise the total or lower the model's widths");
      }
      reference.moe.experts = WholeExperts(reference.moe, experts);
    }
  }
  budget_.counts = Count(reference);
  budget_.flops_per_token = Flops(reference);
  return absl::OkStatus();
}

absl::Status Solver::ChooseExperts() {
  const MoeConfig& moe = budget_.reference.moe;
  const auto chosen = static_cast<double>(moe.top_k);
  std::map<int64_t, double> taken;
  for (const double rho : request_.rho) {
    const int64_t experts = std::min(
        WholeExperts(moe, chosen + rho * (static_cast<double>(moe.experts) - chosen)), moe.experts);
    const auto [other, is_new] = taken.emplace(experts, rho);
    if (!is_new) {
      return Refuse("rho " + NumberText(other->second) + " and " + NumberText(rho) +
                    " are the same cell: both have " + N(experts) + " of " + N(moe.experts) +
                    " experts; the next rho differs by " +
                    NumberText(1.0 / (static_cast<double>(moe.experts) - chosen)));
    }
    experts_.push_back(experts);
  }
  return absl::OkStatus();
}

ModelConfig Solver::Cell(int64_t experts) const {
  ModelConfig model = budget_.reference;
  model.moe.experts = experts;
  if (experts < budget_.reference.moe.experts) model.engram = geometry_;
  return model;
}

// N = (E_max - E) experts of parameters; a sub-table has N / (layers x d_mem) rows, then primes.
ModelConfig Solver::Published(int64_t experts) const {
  ModelConfig model = Cell(experts);
  if (model.engram.blocks.empty()) return model;
  model.engram = request_.base.engram;
  const int64_t freed =
      (budget_.reference.moe.experts - experts) * ExpertParameters(budget_.reference);
  const int64_t layers = static_cast<int64_t>(model.engram.blocks.size());
  model.engram = WithRows(model.engram, freed / (layers * model.engram.d_mem));
  return model;
}

BudgetResidual Solver::ResidualOf(const ModelConfig& model) const {
  BudgetResidual residual;
  residual.total = Count(model).total_without_vocab() - budget_.counts.total_without_vocab();
  residual.total_share = static_cast<double>(residual.total) /
                         static_cast<double>(budget_.counts.total_without_vocab());
  residual.flops = Flops(model) - budget_.flops_per_token;
  residual.flops_share = residual.flops / budget_.flops_per_token;
  return residual;
}

absl::Status Solver::FitWidth(Compensation what, double flops, const std::string& who,
                              ModelConfig* model) const {
  const bool dense = what == Compensation::kDense;
  const int64_t blocks = dense ? DenseBlocks(*model) : MoeBlocks(*model);
  const std::string key = dense ? "model.dense_width" : "model.moe.shared_width";
  if (blocks == 0) return Refuse(who + ": no block has a " + key + " to adjust");
  const int64_t now = dense ? model->dense_width : model->moe.shared_hidden();
  const double unit = 18.0 * static_cast<double>(model->hidden * blocks);  // FLOPs of one column
  const auto multiple = static_cast<double>(request_.width_multiple);
  const double wanted = static_cast<double>(now) + (flops - Flops(*model)) / unit;
  const auto width = static_cast<int64_t>(std::round(wanted / multiple) * multiple);
  if (width < request_.width_multiple) {
    return Refuse(who + ": " + key + " would have to go from " + N(now) + " to " + N(width) +
                  " to take back " + N(std::llround(Flops(*model) - flops)) + " of " +
                  N(std::llround(flops)) +
                  " FLOPs a token; raise it, lower model.engram.d_mem, or compensate elsewhere "
                  "(dense, shared, memory)");
  }
  (dense ? model->dense_width : model->moe.shared_width) = width;
  return absl::OkStatus();
}

// FLOPs do not depend on the rows, so the widths are tried without them.
absl::Status Solver::ChooseMemoryWidth() {
  const int64_t step = Columns(geometry_) * request_.width_multiple;
  double best = 0.0;
  int64_t best_width = 0;
  for (int64_t width = geometry_.d_mem / step * step; width > 0; width -= step) {
    geometry_.d_mem = width;
    double low = 0.0, high = 0.0;
    for (size_t i = 0; i < experts_.size(); ++i) {
      const double share = Flops(Cell(experts_[i])) / budget_.flops_per_token - 1.0;
      low = i == 0 ? share : std::min(low, share);
      high = i == 0 ? share : std::max(high, share);
    }
    if (high - low <= request_.flops_bound) return absl::OkStatus();
    if (best_width == 0 || high - low < best) {
      best = high - low;
      best_width = width;
    }
  }
  return Refuse(
      "compensation: memory: no width of the memory up to " + N(request_.base.engram.d_mem) +
      " (a multiple of " + N(step) + " = orders x heads x " + N(request_.width_multiple) +
      ") brings the cells' FLOPs within " + Share(request_.flops_bound) +
      (best_width > 0 ? "; the nearest, " + N(best_width) + ", leaves " + Share(best) : "") +
      ": compensate by a width of the model (dense, shared)");
}

// Rows for all that the reference has and the cell's other parts do not.
absl::Status Solver::FillTables(const std::string& who, ModelConfig* model) const {
  ModelConfig least = *model;
  least.engram = WithRows(model->engram, 2);
  const Counts counts = Count(least);
  const int64_t others = counts.total_without_vocab() - counts.tables;
  const int64_t left = budget_.counts.total_without_vocab() - others;
  if (left < counts.tables) {
    const int64_t freed = budget_.reference.moe.experts - model->moe.experts;
    return Refuse(who + ": " + N(freed) + " experts less free " +
                  N(freed * ExpertParameters(budget_.reference)) +
                  " parameters; beside Engram's projections of " + N(counts.engram) +
                  " that leaves " + N(left) + " for tables, whose least is " + N(counts.tables) +
                  ": lower rho or model.engram.d_mem");
  }
  model->engram = NearestTables(*model, left);
  return absl::OkStatus();
}

absl::StatusOr<BudgetCell> Solver::SolveCell(double rho, int64_t experts) const {
  const MoeConfig& moe = budget_.reference.moe;
  const std::string who = "rho " + NumberText(rho);
  BudgetCell cell;
  cell.asked_rho = rho;
  cell.rho =
      static_cast<double>(experts - moe.top_k) / static_cast<double>(moe.experts - moe.top_k);
  const ModelConfig published = Published(experts);
  cell.published = ResidualOf(published);
  cell.model = request_.strict ? Cell(experts) : published;
  if (request_.strict && experts < moe.experts) {
    const Compensation how = request_.compensation;
    if (how == Compensation::kDense || how == Compensation::kShared)
      RETURN_IF_ERROR(FitWidth(how, budget_.flops_per_token, who, &cell.model));
    RETURN_IF_ERROR(FillTables(who, &cell.model));
  }
  cell.counts = Count(cell.model);
  cell.flops_per_token = cell.counts.flops_per_token(request_.sequence_length);
  cell.residual = ResidualOf(cell.model);
  return cell;
}

// Largest less smallest of one kind of residual.
BudgetResidual SpreadOf(const std::vector<BudgetCell>& cells, BudgetResidual BudgetCell::*kind) {
  BudgetResidual low = cells.front().*kind, high = low;
  for (const BudgetCell& cell : cells) {
    const BudgetResidual& each = cell.*kind;
    low = {std::min(low.total, each.total), std::min(low.total_share, each.total_share),
           std::min(low.flops, each.flops), std::min(low.flops_share, each.flops_share)};
    high = {std::max(high.total, each.total), std::max(high.total_share, each.total_share),
            std::max(high.flops, each.flops), std::max(high.flops_share, each.flops_share)};
  }
  return {high.total - low.total, high.total_share - low.total_share, high.flops - low.flops,
          high.flops_share - low.flops_share};
}

absl::Status Solver::CheckSpread() const {
  const BudgetResidual& spread = budget_.spread;
  if (spread.total_share > request_.total_bound) {
    return Refuse("the cells' total parameters differ by " + N(spread.total) + " of " +
                  N(budget_.counts.total_without_vocab()) + " (" + Share(spread.total_share) +
                  "), and " + Share(request_.total_bound) +
                  " is allowed: tables grow by distinct primes, which are too coarse for a model "
                  "of this size; lower model.engram.heads or raise the total");
  }
  if (spread.flops_share > request_.flops_bound) {
    return Refuse("the cells' FLOPs a token differ by " + N(std::llround(spread.flops)) + " of " +
                  N(std::llround(budget_.flops_per_token)) + " (" + Share(spread.flops_share) +
                  "), and " + Share(request_.flops_bound) +
                  " is allowed: compensate (dense, shared, memory) in smaller steps, or run the "
                  "geometry as published with strict: false");
  }
  return absl::OkStatus();
}

absl::StatusOr<Budget> Solver::Solve() {
  RETURN_IF_ERROR(CheckRequest());
  RETURN_IF_ERROR(MakeReference());
  RETURN_IF_ERROR(ChooseExperts());
  const bool strict = request_.strict;
  if (strict && request_.compensation == Compensation::kMemory && HasGeometry(geometry_))
    RETURN_IF_ERROR(ChooseMemoryWidth());
  for (size_t i = 0; i < experts_.size(); ++i) {
    ASSIGN_OR_RETURN(BudgetCell cell, SolveCell(request_.rho[i], experts_[i]));
    budget_.cells.push_back(std::move(cell));
  }
  budget_.published_spread = SpreadOf(budget_.cells, &BudgetCell::published);
  budget_.spread = SpreadOf(budget_.cells, &BudgetCell::residual);
  if (strict) RETURN_IF_ERROR(CheckSpread());
  return std::move(budget_);
}

}  // namespace

absl::StatusOr<Compensation> CompensationOf(const std::string& word) {
  const std::vector<std::string> words = {"none", "dense", "shared", "memory"};
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end()) {
    return Refuse("compensate: \"" + word +
                  "\" is none of none, dense, shared, memory; nearest: " + Nearest(word, words));
  }
  return static_cast<Compensation>(found - words.begin());
}

absl::StatusOr<Budget> SolveBudget(const BudgetRequest& request) { return Solver(request).Solve(); }

}  // namespace mneme
