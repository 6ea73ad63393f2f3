// What a step tells: the console line, metrics.jsonl, and what can be read back from it.
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
  double seconds = 0.0;  // of this step
  double tokens_per_second = 0.0;
  bool skipped = false;
  // By rank: seconds of the step before outside of collectives. Empty on one rank, and at first.
  std::vector<double> rank_seconds;
  // Of this rank, by Part (kernels/core/part_clock.h). Empty unless they are timed.
  std::vector<double> part_seconds;
  std::vector<std::pair<std::string, double>>
      more;  // "balance_loss", "time/update", "rows/unique", ...
};

// One strict-JSON object without a line end: step, loss, tokens, learning_rate, grad_norm, seconds,
// tokens_per_second, skipped, ranks/slowest, ranks/seconds_max and ranks/seconds_median where ranks
// are several, then `more`. A number that is not finite is null.
std::string MetricsLine(const StepReport& report);

// Which rank was slowest, and how far from the middle one.
struct SlowestRank {
  int64_t rank = 0;
  double seconds = 0.0;
  double median = 0.0;  // the upper one of two
};
// REQUIRES: not empty.
SlowestRank FindSlowest(const std::vector<double>& rank_seconds);

// metrics.jsonl of a run: one object a step, each step once, in order, also after a crash. A line
// is handed to the system as it is written; Flush makes it outlive the machine. What else stands
// between such lines stays there, and is left out by readers.
class MetricsLog {
 public:
  // Opens for appending after cutting off all that stands behind the last line of a step that is
  // not beyond `last_step`.
  static absl::StatusOr<std::unique_ptr<MetricsLog>> Open(const std::string& path,
                                                          int64_t last_step);
  virtual ~MetricsLog() = default;
  // REQUIRES: report.step is larger than any before.
  virtual absl::Status Write(const StepReport& report) = 0;
  virtual absl::Status Flush() = 0;
};

// A named series of a metrics.jsonl: (step, value) where the value is there and finite. Lines that
// are no step's, or of a step that is not after those before it, are left out; `left_out`, where it
// is given, then says so, the file and the first of them. A torn last line is nothing to tell.
// NotFound where there is no such file.
absl::StatusOr<std::vector<std::pair<double, double>>> ReadSeries(const std::string& path,
                                                                  const std::string& name,
                                                                  std::string* left_out = nullptr);

// "step 120/5000 | loss 3.2140 | gnorm 0.84 | lr 3.00e-04 | 51.5k tok/s | eta 2h14m"; before the
// last part "rank 3 slowest, x1.20" (over the median) of several, and "skipped" where it applies.
std::string ConsoleLine(const StepReport& report, double eta_seconds);
// "2h14m", "3m05s", "12s"; "?" where it is not finite, below 0 or above 1e9.
std::string DurationText(double seconds);
// "9500", "51.5k", "2.10M".
std::string CountText(double count);

}  // namespace mneme
