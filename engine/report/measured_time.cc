#include "engine/report/measured_time.h"

#include <algorithm>
#include <cstdio>

#include "kernels/core/check.h"
#include "kernels/core/part_clock.h"

namespace mneme {
namespace {

// The upper one of two.
double Median(std::vector<double> values) {
  CHECK(!values.empty());
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string PartLine(const char* name, double seconds, double all) {
  char line[64];
  std::snprintf(line, sizeof line, "\n  %-14s %9.4f s  %5.1f %%", name, seconds,
                100.0 * seconds / all);
  return line;
}

std::string RateLine(const char* what, const StepWork& work, double seconds) {
  std::string line =
      std::string("\n  ") + what + ": " + CountText(work.tokens / seconds) + " tokens/s";
  if (work.peak <= 0.0) return line;
  char share[48];
  std::snprintf(share, sizeof share, ", %.1f %% of the peak", 100.0 * PeakShare(work, seconds));
  return line + share;
}

}  // namespace

void MeasuredTime::Add(const StepReport& report) {
  seconds_.push_back(report.seconds);
  if (!report.part_seconds.empty()) parts_.push_back(report.part_seconds);
}

double MeasuredTime::median() const { return Median(seconds_); }

std::string MeasuredTime::Text(const StepWork& work) const {
  if (parts_.empty()) return "";
  const double all = median();
  double update = 0.0;
  std::string text = "where a step's time goes, medians of " + std::to_string(parts_.size()) +
                     " on the first rank:";
  for (size_t part = 0; part < kParts; ++part) {
    std::vector<double> of_steps;
    for (const std::vector<double>& step : parts_) of_steps.push_back(step[part]);
    const double seconds = Median(std::move(of_steps));
    if (part >= kFirstOfUpdate) update += seconds;
    if (seconds > 0.0) text += PartLine(Name(static_cast<Part>(part)), seconds, all);
  }
  text += PartLine("a step", all, all);
  return text + RateLine("with the update", work, all) + RateLine("without it", work, all - update);
}

double PeakShare(const StepWork& work, double seconds) { return work.flops / seconds / work.peak; }

}  // namespace mneme
