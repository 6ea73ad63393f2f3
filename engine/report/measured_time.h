// What the steps of a stage took, and where it went.
#pragma once

#include <string>
#include <vector>

#include "engine/report/report.h"

namespace mneme {

// Of one step, by arithmetic: what its time is held against.
struct StepWork {
  double tokens = 0.0;
  double flops = 0.0;  // of the model (models/count.h), nothing that is computed again
  double peak = 0.0;   // floating-point operations a second of all ranks; 0: unknown
};

class MeasuredTime {
 public:
  void Add(const StepReport& report);

  bool empty() const { return seconds_.empty(); }
  // Median seconds of a step. REQUIRES: not empty.
  double median() const;
  // Where parts were timed: the medians of each, in seconds and as shares, one a line, then tokens
  // a second and share of the peak with the update and without it. Empty where they were not.
  std::string Text(const StepWork& work) const;

 private:
  std::vector<double> seconds_;
  std::vector<std::vector<double>> parts_;  // by step, by Part
};

// "mfu": the share of the peak that a step of `seconds` reached.
double PeakShare(const StepWork& work, double seconds);

}  // namespace mneme
