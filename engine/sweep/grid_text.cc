// A grid for people, and as JSON.
#include <array>
#include <cstdio>

#include "configs/text.h"
#include "engine/json.h"
#include "engine/report.h"
#include "engine/sweep/grid.h"

namespace mneme {
namespace {

std::optional<double> Hours(const SweepConfig& sweep, const SweepCell& cell) {
  if (sweep.run.flops_per_second <= 0.0) return std::nullopt;
  return cell.tokens * cell.flops_per_token / sweep.run.flops_per_second / 3600.0;
}

template <class... T>
std::string Format(const char* format, T... values) {
  std::array<char, 256> text;
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

std::string CellJson(const SweepConfig& sweep, const SweepCell& cell) {
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
  const auto hours = Hours(sweep, cell);
  json.AddRaw("hours", hours ? JsonNumber(*hours) : "null");
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

std::string GridJson(const SweepConfig& sweep, const SweepGrid& grid) {
  std::vector<std::string> cells;
  for (const SweepCell& cell : grid.cells) cells.push_back(CellJson(sweep, cell));
  JsonObject json;
  json.Add("name", sweep.name).Add("folder", sweep.folder).AddRaw("cells", JsonArray(cells));
  return json.Text();
}

std::string GridText(const SweepConfig& sweep, const SweepGrid& grid) {
  std::string out = "sweep " + sweep.name + ": " + std::to_string(grid.cells.size()) +
                    " cells in " + sweep.folder + "\n";
  out +=
      "key               rho     experts  total        active       FLOPs/token  tokens     "
      "hours   axes\n";
  double hours_sum = 0.0;
  for (const SweepCell& cell : grid.cells) {
    const auto hours = Hours(sweep, cell);
    hours_sum += hours.value_or(0.0);
    std::vector<std::string> axes;
    for (const auto& [name, value] : cell.axes) axes.push_back(name + "=" + value);
    out += Format("%-16s  %-6s  %7lld  %-11s  %-11s  %-11s  %-9s  %-6s  %s\n",
                  cell.key.empty() ? "-" : cell.key.c_str(),
                  cell.rho ? Format("%.4f", *cell.rho).c_str() : "-",
                  static_cast<long long>(cell.config.model.moe.experts),
                  CountText(static_cast<double>(cell.counts.total_without_vocab())).c_str(),
                  CountText(static_cast<double>(cell.counts.active())).c_str(),
                  CountText(cell.flops_per_token).c_str(), CountText(cell.tokens).c_str(),
                  hours ? Format("%.2f", *hours).c_str() : "-", Join(axes, " ").c_str());
    if (cell.solved) {
      out += Format(
          "                  against rho 1: %+.4f %% of the parameters, %+.3f %% of the "
          "FLOPs\n",
          100.0 * cell.residual.total_share, 100.0 * cell.residual.flops_share);
    }
  }
  if (hours_sum > 0.0) out += Format("%.1f hours of one cell at a time\n", hours_sum);
  if (!grid.data_fault.empty()) out += "cannot be run yet: " + grid.data_fault + "\n";
  return out;
}

}  // namespace mneme
