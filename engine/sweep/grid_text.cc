// A grid with its plans for people, and as JSON.
#include <array>
#include <cstdio>
#include <map>

#include "configs/json_text.h"
#include "configs/text.h"
#include "engine/report/report.h"
#include "engine/sweep/cell_plan.h"

namespace mneme {
namespace {

double SumOfHours(const std::vector<CellPlan>& plans) {
  double sum = 0.0;
  for (const CellPlan& plan : plans) sum += plan.hours.value_or(0.0);
  return sum;
}

// A reason that many cells have in common is said once.
std::string FaultsText(const std::vector<CellPlan>& plans) {
  std::map<std::string, int64_t> faults;
  for (const CellPlan& plan : plans) {
    if (!plan.fault.empty()) ++faults[plan.fault];
  }
  std::string out;
  for (const auto& [fault, cells] : faults)
    out += "no hours for " + std::to_string(cells) + " cells: " + fault + "\n";
  return out;
}

template <class... T>
std::string Format(const char* format, T... values) {
  std::array<char, 256> text;
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

std::string CellJson(const SweepCell& cell, const CellPlan& plan) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? std::string("null") : JsonString(text);
  };
  JsonObject parameters, axes, json;
  parameters.Add("total", cell.counts.total_without_vocab())
      .Add("active", cell.counts.active())
      .Add("sparse", cell.counts.sparse())
      .Add("tables", cell.counts.tables);
  for (const auto& [name, value] : cell.axes) axes.Add(name, value);
  json.AddRaw("rho", cell.rho ? JsonNumber(*cell.rho) : "null").Add("seed", cell.seed);
  json.AddRaw("budget", cell.budget > 0.0 ? JsonNumber(cell.budget) : "null");
  json.AddRaw("key", cell.key.empty() ? "null" : JsonString(cell.key)).AddRaw("axes", axes.Text());
  json.Add("experts", cell.config.model.moe.experts).AddRaw("parameters", parameters.Text());
  json.Add("flops_per_token", cell.flops_per_token).Add("tokens", cell.tokens);
  json.AddRaw("hours", plan.hours ? JsonNumber(*plan.hours) : "null")
      .AddRaw("no_hours", text_or_null(plan.fault))
      .AddRaw("breaks", text_or_null(plan.breaks));
  if (cell.solved) {
    json.AddRaw("residual", JsonObject()
                                .Add("total", cell.residual.total)
                                .Add("total_share", cell.residual.total_share)
                                .Add("flops_share", cell.residual.flops_share)
                                .Text());
  }
  return json.Text();
}

}  // namespace

std::string GridJson(const SweepConfig& sweep, const SweepGrid& grid,
                     const std::vector<CellPlan>& plans) {
  std::vector<std::string> cells;
  for (size_t i = 0; i < plans.size(); ++i) cells.push_back(CellJson(grid.cells[i], plans[i]));
  JsonObject json;
  json.Add("name", sweep.name).Add("folder", sweep.folder);
  json.Add("device", sweep.run.device).Add("ranks", sweep.run.ranks);
  json.Add("hours", SumOfHours(plans)).AddRaw("cells", JsonArray(cells));
  return json.Text();
}

std::string GridText(const SweepConfig& sweep, const SweepGrid& grid,
                     const std::vector<CellPlan>& plans) {
  std::string out = "sweep " + sweep.name + ": " + std::to_string(grid.cells.size()) +
                    " cells in " + sweep.folder + "\n";
  out +=
      "key               rho     experts  total        active       FLOPs/token  tokens     "
      "hours   axes\n";
  for (size_t i = 0; i < plans.size(); ++i) {
    const SweepCell& cell = grid.cells[i];
    const CellPlan& plan = plans[i];
    std::vector<std::string> axes;
    for (const auto& [name, value] : cell.axes) axes.push_back(name + "=" + value);
    out += Format("%-16s  %-6s  %7lld  %-11s  %-11s  %-11s  %-9s  %-6s  %s\n",
                  cell.key.empty() ? "-" : cell.key.c_str(),
                  cell.rho ? Format("%.4f", *cell.rho).c_str() : "-",
                  static_cast<long long>(cell.config.model.moe.experts),
                  CountText(static_cast<double>(cell.counts.total_without_vocab())).c_str(),
                  CountText(static_cast<double>(cell.counts.active())).c_str(),
                  CountText(cell.flops_per_token).c_str(), CountText(cell.tokens).c_str(),
                  plan.hours ? Format("%.3g", *plan.hours).c_str() : "-", Join(axes, " ").c_str());
    if (cell.solved) {
      out += Format(
          "                  against rho 1: %+.4f %% of the parameters, %+.3f %% of the "
          "FLOPs\n",
          100.0 * cell.residual.total_share, 100.0 * cell.residual.flops_share);
    }
    if (!plan.breaks.empty()) out += "                  breaks a limit: " + plan.breaks + "\n";
  }
  if (const double sum = SumOfHours(plans); sum > 0.0) {
    out += Format("%.3g hours of one cell at a time, each on %lld x ", sum,
                  static_cast<long long>(sweep.run.ranks)) +
           sweep.run.device + "\n";
  }
  out += FaultsText(plans);
  if (!grid.data_fault.empty()) out += "cannot be run yet: " + grid.data_fault + "\n";
  return out;
}

}  // namespace mneme
