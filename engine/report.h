// What a step tells: console line, metrics.jsonl, TensorBoard; and the loss curve as text and SVG.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mneme {

// One step. A metric that was not measured is absent, never 0.
struct StepReport {
  int64_t step = 0;
  int64_t steps = 0;
  int64_t tokens = 0;
  double loss = 0.0;
  double learning_rate = 0.0;
  double grad_norm = 0.0;
  double seconds = 0.0;        // of this step
  double tokens_per_second = 0.0;
  bool skipped = false;
  std::vector<std::pair<std::string, double>> more;  // "balance_loss", "time/forward", "rows/unique", ...
};

// metrics.jsonl of a run: strict JSON, one object a step, each step once, in order, also after a crash.
class MetricsLog {
 public:
  // Opens for appending after dropping lines of steps > `last_step` and a torn last line.
  static absl::StatusOr<std::unique_ptr<MetricsLog>> Open(const std::string& path, int64_t last_step);
  virtual ~MetricsLog() = default;
  virtual absl::Status Write(const StepReport& report) = 0;
  virtual absl::Status Flush() = 0;
};

// "step 120/5000 | loss 3.214 | gnorm 0.84 | lr 3.0e-4 | 51.5k tok/s | eta 2h14m".
std::string ConsoleLine(const StepReport& report, double eta_seconds);

struct Curve {
  std::string name;
  std::vector<double> x, y;
};
std::string PlotText(const std::vector<Curve>& curves, int width, int height);
std::string PlotSvg(const std::vector<Curve>& curves, const std::string& title, const std::string& x_label,
                    const std::string& y_label);

}  // namespace mneme
