// A solved budget as a table for people.
#include <cstdio>

#include "engine/plan/budget.h"

namespace mneme {
namespace {

std::string Millions(int64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f M", 1e-6 * static_cast<double>(value));
  return text;
}

std::string SharesText(const BudgetResidual& residual) {
  char text[64];
  std::snprintf(text, sizeof text, "%+8.4f %% %+7.3f %%", 100.0 * residual.total_share,
                100.0 * residual.flops_share);
  return text;
}

std::string RowsText(const EngramConfig& engram) {
  if (engram.blocks.empty()) return "-";
  std::string out;
  for (const int64_t rows : engram.vocab_size) {
    out += (out.empty() ? "" : ",") + std::to_string(rows);
  }
  return out;
}

std::string CellLine(const BudgetCell& cell) {
  const ModelConfig& model = cell.model;
  char text[256];
  std::snprintf(
      text, sizeof text, "%6.4g %7.4f %7lld %12s %6lld %6lld %6lld %14s %13s  %s  %s\n",
      cell.asked_rho, cell.rho, static_cast<long long>(model.moe.experts),
      RowsText(model.engram).c_str(),
      static_cast<long long>(model.engram.blocks.empty() ? 0 : model.engram.d_mem),
      static_cast<long long>(model.dense_width), static_cast<long long>(model.moe.shared_hidden()),
      Millions(cell.counts.total_without_vocab()).c_str(), Millions(cell.counts.active()).c_str(),
      SharesText(cell.published).c_str(), SharesText(cell.residual).c_str());
  return text;
}

}  // namespace

std::string BudgetText(const Budget& budget) {
  char head[512];
  std::snprintf(head, sizeof head,
                "reference (rho 1): %s parameters without vocabulary, %s active, %.6g FLOPs a "
                "token\n%6s %7s %7s %12s %6s %6s %6s %14s %13s  %21s  %21s\n",
                Millions(budget.counts.total_without_vocab()).c_str(),
                Millions(budget.counts.active()).c_str(), budget.flops_per_token, "rho", "exact",
                "experts", "rows", "d_mem", "dense", "shared", "total", "active",
                "as published: total,", "compensated: total,");
  std::string out = head;
  std::snprintf(head, sizeof head, "%102s%19s  %21s\n", "", "FLOPs", "FLOPs");
  out += head;
  for (const BudgetCell& cell : budget.cells) out += CellLine(cell);
  std::snprintf(head, sizeof head, "%-100s%s  %s\n", "largest less smallest",
                SharesText(budget.published_spread).c_str(), SharesText(budget.spread).c_str());
  return out + head;
}

}  // namespace mneme
