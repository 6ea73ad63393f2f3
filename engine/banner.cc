#include "engine/banner.h"

#include <cstdio>

namespace mneme {
namespace {

// "5.79B", "38.2M", "917k", "258".
std::string Short(int64_t n) {
  constexpr struct {
    double unit;
    const char* suffix;
  } kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  char text[32];
  for (const auto& [unit, suffix] : kUnits) {
    if (static_cast<double>(n) < unit) continue;
    std::snprintf(text, sizeof text, "%.3g%s", static_cast<double>(n) / unit, suffix);
    return text;
  }
  return std::to_string(n);
}

std::string StageLine(const Stage& stage, size_t index, size_t stages, int ranks) {
  std::string line = "batch   ";
  if (stages > 1) {
    line += "stage " + std::to_string(index);
    if (!stage.config.name.empty()) line += " (" + stage.config.name + ")";
    line += ": ";
  }
  const BatchPlan& plan = stage.plan;
  line += std::to_string(plan.sequences) + " sequences x " + std::to_string(stage.length()) +
          " = " + Short(plan.sequences * stage.length()) +
          " tokens a step = " + std::to_string(ranks) + " ranks x " +
          std::to_string(plan.accumulation) + " micro-batches x " + std::to_string(plan.micro) +
          " sequences; " + std::to_string(stage.steps) + " steps";
  if (stage.config.yarn.scale != 1.0) {
    char text[32];
    std::snprintf(text, sizeof text, "; YaRN x %g", stage.config.yarn.scale);
    line += text;
  }
  return line + "\n";
}

}  // namespace

std::string Banner(const RunConfig& config, const Counts& counts, const Layout& layout,
                   const std::vector<Stage>& stages, const Footprint& footprint,
                   const RunFolder& folder, const std::string& device) {
  std::string text = "model   " + std::to_string(config.model.layers) + " blocks x " +
                     std::to_string(config.model.hidden) + ", " + Short(counts.total()) +
                     " parameters: " + Short(counts.active()) + " active a token, " +
                     Short(counts.tables) + " in tables, " + Short(counts.embedding + counts.head) +
                     " vocabulary; " + config.train.precision + "\n";
  text += "data    ";
  for (const Stage& stage : stages) {
    if (&stage != &stages.front()) text += ", then ";
    text += Short(stage.loader->tokens()) + " tokens";
  }
  text += " over " + std::to_string(stages.front().loader->vocabulary().size) + " ids; " +
          std::to_string(config.evaluate.sets.size()) + " held-out sets\n";
  if (device != "cpu") text += "device  " + device + "\n";
  text += "ranks   " + std::to_string(layout.world) + ": experts over " +
          std::to_string(layout.expert) + ", rows over " + std::to_string(layout.memory) + "\n";
  for (size_t i = 0; i < stages.size(); ++i) {
    text += StageLine(stages[i], i, stages.size(), layout.world);
  }
  text += "memory  " + Describe(footprint) + "\n";
  text += "folder  " + folder.dir;
  return text;
}

}  // namespace mneme
